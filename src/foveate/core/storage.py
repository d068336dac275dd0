"""Results appear complete or not at all, and those that are read again say what their content must be."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from hashlib import file_digest, sha256
from itertools import count
from pathlib import Path
from warnings import warn

from foveate.core.progress import bar


@contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """Gives a temporary sibling to write to; it takes the place of `path` when the block ends without an error."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def checksummed(folder: Path, stem: str, suffix: str = "") -> Iterator[Path]:
    """Gives a temporary name for a file or a folder; when the block ends without an error, it appears in `folder`.

    Its name is then `<stem>.<checksum><suffix>`, so content and checksum appear at once. What a killed process left
    has the name `.<stem>...`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    temporary = folder / f".{stem}{suffix}.{os.getpid()}"
    try:
        yield temporary
        os.rename(temporary, folder / f"{stem}.{checksum(temporary)}{suffix}")
    finally:
        remove(temporary)


def checksum(path: Path) -> str:
    """16 hex digits of SHA-256: of a file, or of the names and contents of all files in a folder."""
    if not path.is_dir():
        with path.open("rb") as file:
            return file_digest(file, "sha256").hexdigest()[:16]
    files = bar(_files(path), "file", f"reading {path.name}")
    parts = [f"{file.relative_to(path)} {checksum(file)}\n" for file in files]
    return sha256("".join(parts).encode()).hexdigest()[:16]


def intact(path: Path) -> bool:
    """Whether the content of what was `checksummed` is what its name says; read once as long as it seems untouched."""
    seen = [(str(file), file.stat()) for file in _files(path)]
    return _sound(path, tuple((name, now.st_ino, now.st_size, now.st_mtime_ns) for name, now in seen))


def quarantine(path: Path, why: str = "it is not what its checksum says") -> Path:
    """Renames what is damaged to `<name>.damaged-<n>`, with a warning that names it; it can be made anew then."""
    aside = next(new for n in count(1) if not (new := path.with_name(f"{path.name}.damaged-{n}")).exists())
    path.rename(aside)
    warn(f"damaged: {path} ({why}); it is set aside as {aside.name} and made anew", stacklevel=2)
    return aside


def remove(path: Path) -> None:
    """Removes a file or a folder, if it is there."""
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


@cache
def _sound(path: Path, seen: tuple[tuple[str, int, int, int], ...]) -> bool:
    return checksum(path) in path.name.split(".")


def _files(path: Path) -> list[Path]:
    return sorted(file for file in path.rglob("*") if file.is_file()) if path.is_dir() else [path]
