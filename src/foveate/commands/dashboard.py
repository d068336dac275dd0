"""Opens the page of a study: its trials, with notes, records and kept patches."""

from pathlib import Path

from tyro.conf import Positional

from foveate.core.errors import OptionError
from foveate.studies.names import chosen_study


def main(study: Positional[str | None] = None, out: Path = Path("runs"), port: int = 8080) -> None:
    """Shows a study in the Optuna dashboard, on this machine only; Ctrl-C ends it.

    Args:
        study: Name of the study, such as ablate_layers; default is the only one.
        out: Folder of all results.
        port: Port of the page.
    """
    if not 1 <= port <= 65535:
        raise OptionError(f"port {port}: expected 1 to 65535")
    folder = chosen_study(out, study)
    from foveate.studies.dashboard import serve

    serve(folder, port)
