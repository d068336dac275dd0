"""The SQLite file of a study is known to be whole before it is opened.

SQLite notices a broken structure (`integrity_check`), but not a changed value. So whoever ends a study seals it: beside
the file lies the checksum of its content, with SQLite's own count of the changes that led to it (bytes 24 to 27 of the
file, and again 92 to 95, https://www.sqlite.org/fileformat.html#file_change_counter). Another content with the same
count is damage; a higher count means that somebody has worked on it since, and is no cause for alarm, but then only the
structure is known. A study that is set aside is made anew from its records, which are verified by themselves.
"""

import json
import sqlite3
from contextlib import closing
from pathlib import Path

from foveate.core.storage import atomic_write, checksum, quarantine

NAME = "study.db"
_SIDE_FILES = ("-journal", "-wal", "-shm")  # belong to the file and to no other
_UNKNOWN = {  # what SQLite says when it could not look
    sqlite3.SQLITE_BUSY,
    sqlite3.SQLITE_LOCKED,
    sqlite3.SQLITE_READONLY,
    sqlite3.SQLITE_IOERR,
    sqlite3.SQLITE_FULL,
    sqlite3.SQLITE_CANTOPEN,
    sqlite3.SQLITE_PERM,
    sqlite3.SQLITE_NOMEM,
}
_PATIENCE = 60.0  # seconds until another process has written


def check(path: Path) -> None:
    """Sets a damaged database aside, with a warning; the queue of its study must be held."""
    if path.exists():
        if not (why := _flaw(path)):
            return
        quarantine(path, why)
    for side in (path.with_name(path.name + end) for end in _SIDE_FILES):
        if side.exists():
            quarantine(side, "it belongs to a database that is damaged or gone")
    _sealed(path).unlink(missing_ok=True)


def seal(path: Path) -> None:
    """Notes what the content is now; nothing where there is no such file, as with a database on a server."""
    if not path.exists():
        return
    with closing(sqlite3.connect(path, timeout=_PATIENCE, isolation_level=None)) as database:
        database.execute("begin immediate")  # nobody writes meanwhile
        with atomic_write(_sealed(path)) as seal:
            seal.write_text(json.dumps({"changes": _changes(path), "checksum": checksum(path)}))


def _flaw(path: Path) -> str:
    """What is wrong with a database, in words; empty if nothing is, or if it cannot be looked at."""
    try:
        with closing(sqlite3.connect(path, timeout=_PATIENCE, isolation_level=None)) as database:
            database.text_factory = lambda text: text.decode(errors="replace")  # of what is damaged
            database.execute("begin")
            said = database.execute("pragma integrity_check").fetchone()[0]  # after what a killed process has begun
            return said.splitlines()[-1] if said != "ok" else _unlike_its_seal(path)
    except UnicodeDecodeError:  # in what SQLite complains of
        return "its schema is malformed"
    except sqlite3.DatabaseError as error:
        return "" if error.sqlite_errorcode & 0xFF in _UNKNOWN else str(error)


def _unlike_its_seal(path: Path) -> str:
    try:
        changes, content = _changes(path), json.loads(_sealed(path).read_text())
        same = content["changes"] < changes or content == {"changes": changes, "checksum": checksum(path)}
        return "" if same else "it is not what its seal says"
    except FileNotFoundError:  # who was at work was killed
        return ""
    except (ValueError, LookupError, TypeError):
        return "it or its seal is no longer what it was"


def _changes(path: Path) -> int:
    with path.open("rb") as file:
        header = file.read(100)
    if header[24:28] != header[92:96]:
        raise ValueError(f"{path} counts its changes in two ways")
    return int.from_bytes(header[24:28])


def _sealed(path: Path) -> Path:
    return path.with_suffix(".seal")
