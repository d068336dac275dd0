"""Where a study is kept, and which of its trials may be planned once more."""

from collections.abc import Iterator
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
from foveate.evaluation.names import Existing
from foveate.studies import database


def retry(study: optuna.Study, trial: FrozenTrial) -> None:
    """Plans a trial once more; one that had not chosen all of its parameters is simply gone, and is suggested anew."""
    if chosen(trial):
        RetryHeartbeatStaleTrialCallback()(study, trial)


@dataclass(frozen=True)
class StudyFolder:
    """Where a study is kept.

    Attributes:
        name: Of the study.
        out: Folder of all results; its own files lie in `<out>/<name>`, which all workers share.
        storage: Database URL for several machines; None means a SQLite file in its folder.
        heartbeat_s: A worker says so often that it lives.
        grace_s: After so long a silence its trial is given to another one. Workers that died on the same machine are
            noticed at once.
        existing: See `Existing`.
    """

    name: str
    out: Path
    storage: str | None = None
    heartbeat_s: int = 30
    grace_s: int = 120
    existing: Existing = "refuse"

    @property
    def folder(self) -> Path:
        return self.out / self.name

    @property
    def queue(self) -> FileLock:
        """Held while trials are planned or taken."""
        return FileLock(self.folder / "queue.lock")

    def move_aside(self) -> None:
        """Renames the study that is there, with its folder, to the next free `<name>.old-<n>`.

        Raises:
            OutputError: A worker on this machine is running it.
        """
        workers = self.folder / "workers"
        if running := [path.name for path in sorted(workers.glob("*")) if _held(path)]:
            raise OutputError(f"study {self.name!r} is running, by worker {running[0]}: stop it first")
        storage = self.open() if self.storage else None
        names = set(optuna.get_all_study_names(storage)) if storage else set()
        new = next(name for name in self._old_names() if name not in names and not (self.out / name).exists())
        if storage and self.name in names:
            optuna.copy_study(from_study_name=self.name, from_storage=storage, to_storage=storage, to_study_name=new)
            optuna.delete_study(study_name=self.name, storage=storage)
        if self.folder.exists():
            self.folder.rename(self.out / new)

    def _old_names(self) -> Iterator[str]:
        return (f"{self.name}.old-{number}" for number in count(1))

    def open(self) -> RDBStorage:
        """The storage.

        Raises:
            OutputError: The folder cannot be written, or the storage cannot be used.
        """
        try:
            (self.folder / "workers").mkdir(parents=True, exist_ok=True)
            (self.folder / ".writable").touch()
            (self.folder / ".writable").unlink(missing_ok=True)  # another worker may have come first
        except OSError as error:
            raise OutputError(f"{self.folder} cannot be written: {error.strerror}; choose another --out") from error
        url = self.storage or f"sqlite:///{self.folder / database.NAME}"
        try:
            with self.queue:  # one process checks, and one makes the tables
                database.check(self.folder / database.NAME)
                return RDBStorage(
                    url,
                    heartbeat_interval=self.heartbeat_s,
                    grace_period=self.grace_s,
                    heartbeat_stale_trial_callback=retry,
                )
        except (SQLAlchemyError, ImportError, ValueError) as error:
            raise OutputError(
                f"storage {_without_password(url)!r} cannot be used: {str(error).splitlines()[0]}. Expected the URL of "
                "a database that runs and can be reached, such as postgresql+psycopg://user:password@host/database "
                "(pip install 'foveate[postgres]') or sqlite:////folder/study.db"
            ) from error


def chosen(trial: FrozenTrial) -> bool:
    """Whether it is known what the trial evaluates: it was planned, or its space has asked for everything."""
    return bool(trial.system_attrs.get("fixed_params") or trial.user_attrs.get("suggested"))


def _held(path: Path) -> bool:
    """Tells whether another process holds the lock of this path."""
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
