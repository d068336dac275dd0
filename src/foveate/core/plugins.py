"""Methods, families and benchmarks of other packages, found by their entry points."""

from functools import cache
from importlib.metadata import EntryPoint, entry_points
from typing import Any, Literal

from foveate.core.errors import FoveateError

Group = Literal["foveate.methods", "foveate.families", "foveate.benchmarks", "foveate.classes"]


@cache
def installed_plugins(group: Group) -> dict[str, EntryPoint]:
    """Returns the entry points of a group by name, without importing them.

    Args:
        group: `foveate.methods` (name -> recipe), `foveate.families` (model_type -> adapter), `foveate.benchmarks`
            (name -> `Benchmark`) or `foveate.classes` (name in recipe files -> frozen dataclass).

    Raises:
        FoveateError: Two packages add the same name.
    """
    found: dict[str, EntryPoint] = {}
    for point in entry_points(group=group):
        if point.name in found and found[point.name].value != point.value:
            raise FoveateError(
                f"entry point {point.name!r} of {group}: {found[point.name].value} and {point.value} both add it; "
                "uninstall one of the packages"
            )
        found[point.name] = point
    return found


def import_plugin(group: Group, name: str) -> Any:  # noqa: ANN401 (whatever the package adds)
    """Imports an entry point.

    Raises:
        FoveateError: Its module cannot be imported, or lacks the object.
    """
    point = installed_plugins(group)[name]
    try:
        return point.load()
    except (ImportError, AttributeError) as error:
        raise FoveateError(f"entry point {name!r} of {group}, {point.value}: {error}") from error
