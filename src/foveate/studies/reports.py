"""A folder for the report of a measurement that is no study, which no other configuration overwrites."""

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from foveate.core.errors import OutputError
from foveate.core.storage import atomic_write
from foveate.evaluation.config import run_id
from foveate.evaluation.names import Existing
from foveate.studies.differences import differences

_NOTE = "measurement.json"


def report_folder(out: Path, name: str, existing: Existing, identity: Mapping[str, Any]) -> Path:
    """Returns the folder of this name, or one beside it if it has the report of another configuration.

    The folder is made, with a note of the configuration in it.

    Args:
        out: Folder of all results.
        name: Of the report.
        existing: What becomes of a report of another configuration: "beside" leaves it and takes
            `<name>-<start of the run id>`, with a notice on stderr; anything else refuses.
        identity: Of the configuration, as JSON.

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
    notice = f"the report of the default name has another configuration, so this one is {other!r}:\n{different}"
    print(notice, file=sys.stderr)
    return report_folder(out, other, "refuse", identity)
