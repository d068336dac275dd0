"""The page of a study, which Optuna's dashboard serves."""

import errno
from pathlib import Path

from optuna.artifacts import FileSystemArtifactStore
from optuna_dashboard import run_server

from foveate.core.errors import OptionError
from foveate.studies.names import ARTIFACTS, DATABASE

_HOST = "127.0.0.1"  # this machine only: the page can change and delete studies


def serve(folder: Path, port: int) -> None:
    """Serves the page of a study until Ctrl-C.

    Args:
        folder: The study's folder.
        port: Port of the page.

    Raises:
        OptionError: The port is in use.
    """
    (folder / ARTIFACTS).mkdir(exist_ok=True)
    store = FileSystemArtifactStore(folder / ARTIFACTS)
    try:
        run_server(f"sqlite:///{folder / DATABASE}", _HOST, port, store)
    except OSError as error:
        if error.errno != errno.EADDRINUSE:
            raise
        raise OptionError(f"port {port} is in use: choose another --port") from error
