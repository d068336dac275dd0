"""Folders of reports, and the differences between two configurations of one name."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from foveate.core.errors import OutputError, shown, shown_some
from foveate.core.storage import atomic_write
from foveate.evaluation.config import run_id
from foveate.evaluation.names import Existing
from foveate.evaluation.ranks import notice

_NOTE = "measurement.json"
_HASHES = {
    "checkpoint": "the model's weights, configuration or processor",
    "code": "foveate's code, or the version of torch or transformers",
    "data_hash": "the questions or images",
    "recipe": "the code or defaults of the recipe",
}
"""Contents of the parts of an identity that are hashes."""


def report_folder(out: Path, name: str, existing: Existing, identity: Mapping[str, Any]) -> Path:
    """Returns the folder of a report, after creating it with a file that stores the report's configuration.

    Args:
        out: Folder of all results.
        name: Name of the report.
        existing: Treatment of a report of another configuration: "beside" keeps it, prints a notice to stderr and
            returns the folder `<name>-<start of the run ID>`; anything else raises an error.
        identity: The configuration's identity, as JSON.

    Raises:
        OutputError: The folder has the report of another configuration, or cannot be written.
    """
    note = out / name / _NOTE
    try:
        known = json.loads(note.read_text(encoding="utf-8")) if note.exists() else None
        if known is None:
            with atomic_write(note) as path:
                path.write_text(json.dumps(dict(identity), indent=1), encoding="utf-8")
            return note.parent
    except (OSError, ValueError) as error:
        raise OutputError(f"{note} cannot be used: {error}; choose another --study or --out") from error
    if not (different := "\n".join(f"  {line}" for line in differences(known, identity))):
        return note.parent
    if existing != "beside":
        raise OutputError(
            f"{note.parent} has the report of another configuration:\n{different}\nGive another --study to keep both; "
            "without --study another configuration goes to a folder of its own"
        )
    other = f"{name}-{run_id(identity)[:8]}"
    text = f"the report of the default name has another configuration, so this one is {other!r}:\n{different}"
    notice(text)
    return report_folder(out, other, "refuse", identity)


def differences(there: Mapping[str, Any], here: Mapping[str, Any]) -> list[str]:
    """Returns a line for each name whose values differ between two configurations.

    Args:
        there: The stored configuration.
        here: The new configuration, as JSON.
    """
    here = json.loads(json.dumps(here))  # with lists for tuples, as storages return them
    return [
        _difference(name, there.get(name), here.get(name))
        for name in {**there, **here}
        if there.get(name) != here.get(name)
    ]


def _difference(name: str, there: Any, here: Any) -> str:  # noqa: ANN401 (JSON)
    """Returns a line with the parts of two values that differ."""
    if name in _HASHES:
        return f"{name}: other than there ({_HASHES[name]})"
    if isinstance(there, list) and isinstance(here, list):
        there, here = dict.fromkeys(map(str, there)), dict.fromkeys(map(str, here))
    if not (isinstance(there, dict) and isinstance(here, dict)):
        return f"{name}: {shown(there)} there, {shown(here)} here"
    changed = [key for key in there if key in here and there[key] != here[key]]
    parts = {"only there": there.keys() - here.keys(), "only here": here.keys() - there.keys(), "changed": changed}
    listed = [f"{part} {shown_some(names)}" for part, names in parts.items() if names]
    return f"{name}: {'; '.join(listed) or 'in another order'}"
