"""In what two configurations of a study differ, one line each."""

import json
from collections.abc import Mapping
from typing import Any

from foveate.core.errors import shown, shown_some

_MEANINGS = {
    "checkpoint": "the model's weights, configuration or processor",
    "code": "foveate's code, or the version of torch or transformers",
    "data_hash": "the questions or images",
    "recipe": "the code or defaults of the recipe",
}
"""What names stand for whose values are hashes."""


def differences(there: Mapping[str, Any], here: Mapping[str, Any]) -> list[str]:
    """Returns a line for each name under which two configurations hold different values.

    Args:
        there: As a storage gave it back.
        here: Values of JSON.
    """
    plain = json.loads(json.dumps(here))  # as it would come back from the storage
    different = [name for name in {**there, **plain} if there.get(name) != plain.get(name)]
    return [_difference(name, there.get(name), plain.get(name)) for name in different]


def _difference(name: str, there: Any, here: Any) -> str:  # noqa: ANN401 (JSON)
    """Returns one line that names only what differs."""
    if name in _MEANINGS:
        return f"{name}: other than there ({_MEANINGS[name]})"
    if isinstance(there, list) and isinstance(here, list):
        there, here = dict.fromkeys(map(str, there)), dict.fromkeys(map(str, here))
    if not (isinstance(there, dict) and isinstance(here, dict)):
        return f"{name}: {shown(there)} there, {shown(here)} here"
    changed = [key for key in there if key in here and there[key] != here[key]]
    parts = {"only there": there.keys() - here.keys(), "only here": here.keys() - there.keys(), "changed": changed}
    said = [f"{what} {shown_some(names)}" for what, names in parts.items() if names]
    return f"{name}: {'; '.join(said) or 'in another order'}"
