"""Addresses of the documentation's pages, which an installed package does not contain."""

from functools import cache
from importlib.metadata import metadata
from urllib.parse import urljoin

OWN_DATA = "how_to/own_data"
"""Name of the page about tables of the user's own."""
BENCHMARKS = "how_to/benchmarks"


@cache
def site() -> str:
    """Returns the address of the documentation's first page, as the package's metadata name it."""
    urls = dict(line.split(", ", 1) for line in metadata("foveate").get_all("Project-URL") or [])
    return urls["Documentation"]


def page(name: str) -> str:
    """Returns the address of a page.

    Args:
        name: Path of the page below `docs`, without its ending, such as "how_to/own_data".
    """
    return urljoin(site(), name + (".md" if site().endswith(".md") else ".html"))
