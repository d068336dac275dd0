"""Remembers that a command has finished, so that the same command need not load anything to find nothing left to do.

Beside the study lies `finished.json`: the command, what it printed, and size and time of change of every file that it
depends on (the code that was loaded, checkpoint, data) or has left (study, tables, figures, records). If one of them is
not as it was, or the installed packages are not, the command runs; what is finished then costs a look at the records.
"""

import json
import os
import sysconfig
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from foveate.core.storage import atomic_write

NAME = "finished.json"
RESULTS: dict[Path, Callable[[], Iterable[Path]]] = {}
"""By the folder of a study that this process has opened: what tells all files and folders that its results rest on."""


class Copied:
    """Standard output that keeps a copy of its text."""

    def __init__(self, stream: Any) -> None:  # noqa: ANN401 (whatever stands for it)
        self._stream, self.text = stream, ""

    def write(self, text: str) -> int:
        self.text += text
        return self._stream.write(text)

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401 (all else is the stream's)
        return getattr(self._stream, name)


def command_of(arguments: Mapping[str, Any]) -> str:
    """Returns a text that two commands share if they ask for the same."""
    return f"{os.getcwd()} {sorted((name, repr(value)) for name, value in arguments.items())} {_installed()}"


def remembered(folder: Path, command: str) -> str | None:
    """Returns what a command printed when it finished; None if it has not, or a file is not as it was.

    Args:
        folder: Of the study.
        command: See `command_of`.
    """
    try:
        notes = json.loads((folder / NAME).read_text())
        same = notes["command"] == command and all(_state(path) == state for path, state in notes["files"].items())
        return notes["printed"] if same else None
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        return None


def remember(
    folder: Path, command: str, printed: str, inputs: Iterable[Path], results: Iterable[Path], begun: float
) -> None:
    """Notes that a command has finished, unless an input has changed while it ran.

    Args:
        folder: Of the study.
        command: See `command_of`.
        printed: By the command.
        inputs: Files and folders that it depends on.
        results: Files and folders that it has left.
        begun: When it was started, in seconds since the epoch.
    """
    needed = [*_files(inputs)]
    if any(path.stat().st_mtime >= begun for path in needed):
        return
    files = {str(path): _state(path) for path in (*needed, *_files(results))}
    with atomic_write(folder / NAME) as path:
        path.write_text(json.dumps({"command": command, "printed": printed, "files": files}))


def _files(paths: Iterable[Path]) -> Iterator[Path]:
    for path in paths:
        for file in sorted(path.rglob("*")) if path.is_dir() else [path]:
            if file.is_file() and file.name != NAME and not file.name.endswith((".lock", ".pyc")):
                yield file.absolute()


def _state(path: str | Path) -> list[int]:
    """Returns size and time of change; a list, as JSON gives it back."""
    found = os.stat(path)
    return [found.st_size, found.st_mtime_ns]


def _installed() -> list[str]:
    return sorted(path.name for path in Path(sysconfig.get_path("purelib")).glob("*.dist-info"))
