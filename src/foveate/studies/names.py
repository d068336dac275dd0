"""Names of the files of a study, and the studies in a folder; importing this module is fast."""

from pathlib import Path

from foveate.core.errors import OutputError, shown, shown_some

DATABASE = "study.db"
ARTIFACTS = "artifacts"
"""Folder of the files that the dashboard shows."""


def studies_in(out: Path) -> list[str]:
    """Returns the names of the studies in a folder of results, each of which has a database of its own."""
    return sorted(path.parent.name for path in out.glob(f"*/{DATABASE}"))


def chosen_study(out: Path, name: str | None) -> Path:
    """Returns the folder of a study.

    Args:
        out: Folder of all results.
        name: Name of the study; None means the only one.

    Raises:
        OutputError: There is no such study, or there are several and none is named.
    """
    known = studies_in(out)
    if name is None and len(known) == 1:
        return out / known[0]
    if name in known:
        return out / name
    there = (
        f"{out} has {shown_some(known, 20)}"
        if known
        else f"{out} has none: run ablate, compare or search, or give --out"
    )
    what = f"study {shown(name)} has no {DATABASE}" if name is not None else "expected the name of a study"
    raise OutputError(f"{what}; {there}")
