"""Memory of finished commands, so that a repeated command need not load anything to find nothing left to do.

`finished.json` in the study's folder holds the command, its output, and size and modification time of every file that
it depends on (loaded code, checkpoint, data) or has written (study, tables, figures, records). If one of them or the
installed packages have changed, the command runs, and only checks the records of what is finished.
"""

import json
import os
import platform
import sysconfig
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from foveate.core.storage import atomic_write

NAME = "finished.json"
_VISIBLE = ("CUDA_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES")
RESULTS: dict[Path, Callable[[], Iterable[Path]]] = {}
"""By the folder of each study that this process has opened: a function that lists the files with its results."""


class Copied:
    """Standard output with a copy of its text."""

    def __init__(self, stream: Any) -> None:  # noqa: ANN401 (any text stream)
        self._stream, self.text = stream, ""

    def write(self, text: str) -> int:
        self.text += text
        return self._stream.write(text)

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401 (the stream's own attributes)
        return getattr(self._stream, name)


def command_of(arguments: Mapping[str, Any]) -> str:
    """Returns a text that is equal for two commands with equal arguments, folder, packages and machine.

    What "auto" means depends on the machine and on the devices that the command may use.
    """
    values = sorted((name, repr(value)) for name, value in arguments.items())
    return f"{os.getcwd()} {values} {_installed()} {_machine()}"


def remembered(folder: Path, command: str) -> str | None:
    """Returns the output of a finished command; None if it has not finished, or a file has changed.

    Args:
        folder: The study's folder.
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
    """Stores that a command has finished, unless an input has changed while it ran.

    Args:
        folder: The study's folder.
        command: See `command_of`.
        printed: Output of the command.
        inputs: Files and folders that it depends on.
        results: Files and folders that it has written.
        begun: Time at which it was started, in seconds since the epoch.
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
    """Returns size and modification time, as a list because JSON has no tuples."""
    found = os.stat(path)
    return [found.st_size, found.st_mtime_ns]


def _machine() -> list[str]:
    """Returns the machine, its devices and those that are visible, which takes no import of torch."""
    visible = [f"{name}={os.environ.get(name)}" for name in _VISIBLE]
    return [platform.node(), *sorted(path.name for path in Path("/dev").glob("nvidia[0-9]*")), *visible]


def _installed() -> list[str]:
    return sorted(path.name for path in Path(sysconfig.get_path("purelib")).glob("*.dist-info"))
