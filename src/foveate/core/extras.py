"""Packages of the core and of the extras of foveate, as its metadata name them."""

import re
from importlib.metadata import PackageNotFoundError, requires

from foveate.core.errors import MissingPackage

CORE = ""
"""Name of the core among the extras."""


def packages_of_extras() -> dict[str, list[str]]:
    """Returns the packages by extra; those of the core are under `CORE`. Without metadata there are none."""
    found: dict[str, list[str]] = {}
    try:
        lines = requires("foveate") or []
    except PackageNotFoundError:  # a source folder on the path
        lines = []
    for line in lines:
        package, extra = re.match(r"[\w.-]+", line), re.search(r"extra == ['\"]([\w-]+)", line)
        if package:
            found.setdefault(extra[1] if extra else CORE, []).append(package[0])
    return found


def missing_package(error: ModuleNotFoundError) -> MissingPackage | None:
    """Returns an error that names the smallest extra with the package that an import did not find.

    Args:
        error: Error of the import.

    Returns:
        The error; None if no extra has the package.
    """
    name = (error.name or "").partition(".")[0]
    sizes = {
        extra: len(packages)
        for extra, packages in packages_of_extras().items()
        if extra != CORE and name in [package.lower().replace("-", "_") for package in packages]
    }
    if not sizes:
        return None
    extra = min(sizes, key=lambda extra: sizes[extra])
    return MissingPackage(f"this needs {name}, which is not installed: pip install 'foveate[{extra}]'")
