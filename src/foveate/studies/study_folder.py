"""The folder and the storage of a study."""

import os
import platform
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from itertools import count
from pathlib import Path

import optuna
from filelock import FileLock, Timeout
from optuna.storages import RDBStorage, RetryHeartbeatStaleTrialCallback
from optuna.trial import FrozenTrial
from sqlalchemy.engine import make_url
from sqlalchemy.exc import SQLAlchemyError

from foveate.core.errors import OutputError
from foveate.core.storage import quarantine
from foveate.evaluation.names import Existing
from foveate.studies.names import DATABASE

_SIDE_FILES = ("-journal", "-wal", "-shm")  # SQLite's, valid only together with their database
_UNREADABLE = {  # SQLite's codes for a database that could not be checked
    sqlite3.SQLITE_BUSY,
    sqlite3.SQLITE_LOCKED,
    sqlite3.SQLITE_READONLY,
    sqlite3.SQLITE_IOERR,
    sqlite3.SQLITE_FULL,
    sqlite3.SQLITE_CANTOPEN,
    sqlite3.SQLITE_PERM,
    sqlite3.SQLITE_NOMEM,
}
_TIMEOUT_S = 60.0  # for SQLite's own locks


def retry(study: optuna.Study, trial: FrozenTrial) -> None:
    """Enqueues a trial again; one that failed before all of its parameters were suggested is suggested anew."""
    if has_choice(trial):
        RetryHeartbeatStaleTrialCallback()(study, trial)


def has_choice(trial: FrozenTrial) -> bool:
    """Returns whether a trial's choice is complete: it was enqueued, or its space has suggested every parameter."""
    return bool(trial.system_attrs.get("fixed_params") or trial.user_attrs.get("suggested"))


@dataclass(frozen=True)
class StudyFolder:
    """The folder and the storage of a study.

    Attributes:
        name: Name of the study.
        out: Folder of all results; the study's own files lie in `<out>/<name>`, which all of its processes share.
        storage: Database URL for several machines; None means a SQLite file in the study's folder.
        heartbeat_s: Interval of a running trial's heartbeats, in seconds.
        grace_s: Seconds without a heartbeat after which another process retries a trial.
        existing: See `Existing`.
    """

    name: str
    out: Path
    storage: str | None = None
    heartbeat_s: int = 10
    grace_s: int = 60
    existing: Existing = "refuse"

    @property
    def folder(self) -> Path:
        return self.out / self.name

    @property
    def queue(self) -> FileLock:
        """The lock that is held while trials are enqueued or started."""
        return FileLock(self.folder / "queue.lock")

    @contextmanager
    def working(self) -> Iterator[None]:
        """Marks this process as one that runs trials, until the block ends or the process dies."""
        path = self.folder / "workers" / f"{platform.node()}-{os.getpid()}-{time.time_ns()}"
        with FileLock(path):
            yield
        path.unlink(missing_ok=True)

    @property
    def workers(self) -> list[str]:
        """Names of the processes that run trials; the file locks of dead processes are free."""
        return [path.name for path in sorted((self.folder / "workers").glob("*")) if _locked(path)]

    def move_aside(self) -> None:
        """Renames the existing study and its folder to the next free `<name>.old-<n>`.

        Raises:
            OutputError: A process is running the study.
        """
        if running := self.workers:
            raise OutputError(f"study {self.name!r} is running, by worker {running[0]}: stop it first")
        storage = self.open() if self.storage else None
        names = set(optuna.get_all_study_names(storage)) if storage else set()
        candidates = (f"{self.name}.old-{number}" for number in count(1))
        new = next(name for name in candidates if name not in names and not (self.out / name).exists())
        if storage and self.name in names:
            optuna.copy_study(from_study_name=self.name, from_storage=storage, to_storage=storage, to_study_name=new)
            optuna.delete_study(study_name=self.name, storage=storage)
        if self.folder.exists():
            self.folder.rename(self.out / new)

    def open(self) -> RDBStorage:
        """Returns the storage, after quarantining a damaged SQLite file.

        Raises:
            OutputError: The folder cannot be written, or the storage cannot be used.
        """
        try:
            (self.folder / "workers").mkdir(parents=True, exist_ok=True)
            (self.folder / ".writable").touch()
            (self.folder / ".writable").unlink(missing_ok=True)  # another process may have removed it
        except OSError as error:
            raise OutputError(f"{self.folder} cannot be written: {error.strerror}; choose another --out") from error
        url = self.storage or f"sqlite:///{self.folder / DATABASE}"
        try:
            with self.queue:  # one process checks the file, and one creates the tables
                _check_database(self.folder / DATABASE)
                return RDBStorage(
                    url,
                    heartbeat_interval=self.heartbeat_s,
                    grace_period=self.grace_s,
                    heartbeat_stale_trial_callback=retry,
                )
        except (SQLAlchemyError, ImportError, ValueError) as error:
            raise OutputError(
                f"storage {_without_password(url)!r} cannot be used: {str(error).splitlines()[0]}. Expected the URL of "
                "a running, reachable database, such as postgresql+psycopg://user:password@host/database "
                "(pip install 'foveate[postgres]') or sqlite:////folder/study.db"
            ) from error


def _check_database(path: Path) -> None:
    """Quarantines a SQLite file that fails SQLite's integrity check, and side files without their database."""
    if path.exists():
        if not (flaw := _flaw(path)):
            return
        quarantine(path, flaw)
    for side in (path.with_name(path.name + end) for end in _SIDE_FILES):
        if side.exists():
            quarantine(side, "it belongs to a database that is damaged or lost")


def _flaw(path: Path) -> str:
    """Returns what SQLite's integrity check finds, or an empty string if it finds nothing or cannot run."""
    try:
        with closing(sqlite3.connect(path, timeout=_TIMEOUT_S)) as database:
            database.text_factory = lambda text: text.decode(errors="replace")
            found = database.execute("pragma integrity_check").fetchone()[0]
            return "" if found == "ok" else found.splitlines()[-1]
    except UnicodeDecodeError:
        return "its schema is malformed"
    except sqlite3.DatabaseError as error:
        return "" if error.sqlite_errorcode & 0xFF in _UNREADABLE else str(error)


def _locked(path: Path) -> bool:
    try:
        with FileLock(path, timeout=0):
            return False
    except Timeout:
        return True


def _without_password(url: str) -> str:
    try:
        return make_url(url).render_as_string(hide_password=True)
    except SQLAlchemyError:
        return url
