"""Data sets of questions about images."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from foveate.data.template import write_template

__all__ = ["write_template"]


def __getattr__(name: str) -> Any:  # noqa: ANN401 (one of the names above)
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from foveate.data.template import write_template  # on demand, because names of data sets need no libraries

    return write_template
