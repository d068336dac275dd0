"""Published methods and controls: `METHODS` by name, and each as `foveate.methods.<name>`, imported lazily."""

from typing import TYPE_CHECKING, Any

from foveate.methods.registry import METHODS, NAMES

if TYPE_CHECKING:
    from foveate.methods.recipes.after_tower import *  # noqa: F403
    from foveate.methods.recipes.controls import *  # noqa: F403
    from foveate.methods.recipes.in_language_model import *  # noqa: F403
    from foveate.methods.recipes.in_stages import *  # noqa: F403
    from foveate.methods.recipes.in_tower import *  # noqa: F403
    from foveate.methods.recipes.video import *  # noqa: F403


__all__ = ["METHODS", *NAMES]  # pyright: ignore[reportUnsupportedDunderAll]


def __getattr__(name: str) -> Any:  # noqa: ANN401 (a recipe)
    if name in METHODS:
        return METHODS[name]
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
