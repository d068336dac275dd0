"""Files that appear complete or not at all, and whose names carry a checksum of their content."""

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
    """Yields a temporary sibling to write to, which replaces `path` when the block ends without an error."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def checksummed(folder: Path, stem: str, suffix: str = "") -> Iterator[Path]:
    """Yields a temporary path for a file or folder, which is renamed when the block ends without an error.

    Its final name in `folder` is `<stem>.<checksum><suffix>`: content and checksum appear at once. Temporary files
    of killed processes are called `.<stem>...`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    temporary = folder / f".{stem}{suffix}.{os.getpid()}"
    try:
        yield temporary
        os.rename(temporary, folder / f"{stem}.{checksum(temporary)}{suffix}")
    finally:
        remove(temporary)


def checksum(path: Path) -> str:
    """Returns 16 hex digits of SHA-256: of a file, or of the names and contents of all files in a folder."""
    if not path.is_dir():
        with path.open("rb") as file:
            return file_digest(file, "sha256").hexdigest()[:16]
    files = bar(_files(path), "file", f"reading {path.name}")
    parts = [f"{file.relative_to(path)} {checksum(file)}\n" for file in files]
    return sha256("".join(parts).encode()).hexdigest()[:16]


def intact(path: Path) -> bool:
    """Returns whether a file or folder has the checksum in its name; it is read again only if it seems changed."""
    seen = [(str(file), file.stat()) for file in _files(path)]
    return _has_checksum(path, tuple((name, now.st_ino, now.st_size, now.st_mtime_ns) for name, now in seen))


def quarantine(path: Path, why: str = "its content does not have its checksum") -> Path:
    """Renames a damaged file or folder to `<name>.damaged-<n>`, with a warning; it can then be recomputed."""
    aside = next(new for n in count(1) if not (new := path.with_name(f"{path.name}.damaged-{n}")).exists())
    path.rename(aside)
    warn(f"damaged: {path} ({why}); it is quarantined as {aside.name} and recomputed", stacklevel=2)
    return aside


def remove(path: Path) -> None:
    """Removes a file or folder if it exists."""
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


@cache
def _has_checksum(path: Path, seen: tuple[tuple[str, int, int, int], ...]) -> bool:
    return checksum(path) in path.name.split(".")


def _files(path: Path) -> list[Path]:
    return sorted(file for file in path.rglob("*") if file.is_file()) if path.is_dir() else [path]
