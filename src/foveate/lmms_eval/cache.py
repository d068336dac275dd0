"""What lmms-eval's response cache takes a model for."""

from functools import cache, wraps
from typing import Any
from weakref import WeakValueDictionary

from lmms_eval.caching.response_cache import ResponseCache

from foveate.lmms_eval.manifest import NAME

_MADE: WeakValueDictionary[str, Any] = WeakValueDictionary()


def known_to_cache(model_args: str, made: Any) -> None:  # noqa: ANN401 (whose text identifies it)
    """Lets the cache tell a model by its text besides its arguments.

    Its key holds the model's name and arguments as they were typed, and models have no say in it: the same line would
    bring back answers of other code, or of a checkpoint that was trained anew.

    Args:
        model_args: As they were typed.
        made: What was made of them.
    """
    _MADE[model_args] = made
    _extend()


@cache
def _extend() -> None:
    """Once in a process, and for no other model."""
    stock = ResponseCache.create

    @wraps(stock)
    def create(cache_root: str, *, model: Any = "", model_args: Any = "", **rest: Any) -> ResponseCache:  # noqa: ANN401
        made = _MADE.get(model_args) if model == NAME and isinstance(model_args, str) else None
        return stock(cache_root, model=str(made or model), model_args=model_args, **rest)

    ResponseCache.create = create  # type: ignore[method-assign]
