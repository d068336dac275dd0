"""The recipe file: a compressor as data, the model that it was chosen for, and where it comes from.

Nothing in a file is run: classes are named, and only those of this package and of installed packages are known.
https://github.com/foveate/foveate/blob/main/docs/reference/recipe_file.md has its schema.
"""

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import MISSING, Field, dataclass, fields, is_dataclass
from functools import cache
from importlib.metadata import version
from itertools import chain
from pathlib import Path
from types import UnionType
from typing import TYPE_CHECKING, Annotated, Any, Union, get_args, get_origin

from foveate import compressors, mergers, reductions, scorers, selectors
from foveate.compressors.base import Compressor
from foveate.core.budget import Capped, Curve, Floor, Geometric, Interpolated, Times
from foveate.core.errors import FoveateError, OutputError, RecipeError, message_of, shown, shown_some
from foveate.core.layers import LayersFrom
from foveate.core.plugins import import_plugin, installed_plugins
from foveate.core.storage import atomic_write

if TYPE_CHECKING:  # transformers takes seconds to import
    import foveate.models.backbone.adapter

FORMAT = 1
GROUP = "foveate.classes"
_LARGEST = 1_000_000  # bytes of a file
_DEEPEST = 40  # values inside each other
_KEYS = {"format": True, "name": True, "compressor": True, "model": False, "origin": False, "versions": False}
_PACKAGES = (compressors, scorers, selectors, mergers, reductions)
_VALUES = (Capped, Curve, Floor, Geometric, Interpolated, LayersFrom, Times)


@dataclass(frozen=True)
class ChosenFor:
    """The model that a recipe was chosen for.

    Attributes:
        type: The `model_type` of its configuration.
        tower_depth: Number of layers of its vision tower.
        decoder_depth: Number of blocks of its language model.
        patches: Number of patches of an image of the tower's own or of a typical size.
        checkpoint: Hash of the checkpoint; empty if it is unknown.
    """

    type: str
    tower_depth: int
    decoder_depth: int
    patches: int
    checkpoint: str = ""


@dataclass(frozen=True)
class RecipeFile:
    """The content of a recipe file.

    Attributes:
        compressor: The compressor.
        name: Name of the method in tables.
        model: The model that it was chosen for; None if it was chosen for none.
        origin: Where it comes from, such as the study, the data, and the accuracy with its interval; plain JSON.
    """

    compressor: Compressor
    name: str
    model: ChosenFor | None = None
    origin: Mapping[str, Any] | None = None

    def misfit(self, model: ChosenFor) -> str:
        """Returns how another model differs from the one that the recipe was chosen for, or an empty string."""
        if self.model is None:
            return ""
        ours, theirs = vars(self.model), vars(model)
        unknown = () if self.model.checkpoint and model.checkpoint else ("checkpoint",)
        return ", ".join(
            f"{name} {theirs[name]} instead of {ours[name]}"
            for name in ours
            if ours[name] != theirs[name] and name not in unknown
        )


def chosen_for(adapter: "foveate.models.backbone.adapter.Adapter") -> ChosenFor:
    """Returns what a file says about the model of an adapter."""
    kind, depth = adapter.model.config.model_type, adapter.decoder.depth
    return ChosenFor(kind, adapter.tower.depth, depth, adapter.tower.grid.patches, adapter.checkpoint())


def write(path: str | Path, recipe: RecipeFile) -> None:
    """Writes a recipe file, complete or not at all; an older file of that name is replaced.

    Args:
        path: Where; the name ends in ".json".
        recipe: The content.

    Raises:
        RecipeError: The compressor has a class or a value that a file cannot hold, or the name does not end in ".json".
        OutputError: The file cannot be written.
    """
    path = Path(path)
    if path.suffix != ".json":
        raise RecipeError(f"recipe {str(path)!r}: expected a name that ends in .json, by which commands recognise it")
    text = json.dumps(content_of(recipe), indent=2, allow_nan=False, ensure_ascii=False) + "\n"
    try:
        with atomic_write(path) as temporary:
            temporary.write_text(text, encoding="utf-8")
    except OSError as error:
        raise OutputError(
            f"{path} cannot be written ({message_of(error)}): expected the name of a file in a folder that you may "
            "write to, such as recipe.json"
        ) from error


def content_of(recipe: RecipeFile) -> dict[str, Any]:
    """Returns the content of a recipe file as plain JSON.

    Raises:
        RecipeError: The compressor has a class or a value that a file cannot hold.
    """
    return {
        "format": FORMAT,
        "name": recipe.name,
        "compressor": _encoded(recipe.compressor, "compressor"),
        "model": recipe.model and vars(recipe.model),
        "origin": recipe.origin and dict(recipe.origin),
        "versions": {name: version(name) for name in ("foveate", "torch", "transformers")},
    }


def read(path: str | Path) -> RecipeFile:
    """Reads a recipe file.

    Args:
        path: The file.

    Raises:
        RecipeError: The file cannot be read, is damaged, is no recipe, or comes from a newer version; the message names
            the file and the value.
    """
    try:
        with Path(path).expanduser().open("rb") as file:
            data = file.read(_LARGEST + 1)
    except (OSError, ValueError, RuntimeError) as error:
        raise RecipeError(f"recipe {shown(str(path))} cannot be read: {message_of(error)}") from error
    try:
        if len(data) > _LARGEST:
            raise RecipeError(f"it has more than {_LARGEST:,} bytes, so it is no recipe")
        return parsed(_json(data))
    except RecipeError as error:
        raise RecipeError(f"recipe {shown(str(path))}: {error}") from error


def parsed(content: object) -> RecipeFile:
    """Returns the recipe of the content of a file.

    Raises:
        RecipeError: The content is no recipe, or comes from a newer version.
    """
    if not isinstance(content, dict) or "compressor" not in content:
        raise RecipeError("it is no recipe: expected an object with format, name and compressor")
    if type(content.get("format")) is not int or content["format"] < 1:
        raise RecipeError(f"format is {shown(content.get('format'))}: expected {FORMAT}")
    if content["format"] > FORMAT:
        newer = content.get("versions")
        maker = f"foveate {shown(newer.get('foveate'))}" if isinstance(newer, dict) else "a newer foveate"
        raise RecipeError(f"format is {content['format']}, written by {maker}: expected {FORMAT}; update foveate")
    _check_keys("", content, _KEYS)
    if not isinstance(content["name"], str) or not 0 < len(content["name"]) <= 200:
        raise RecipeError(f"name is {shown(content['name'])}: expected a text")
    compressor = _decoded(content["compressor"], "compressor")
    if not isinstance(compressor, Compressor):
        raise RecipeError(f"compressor is {shown(content['compressor'])}: expected an object with the class of one")
    origin = content.get("origin")
    if not isinstance(origin, dict | None):
        raise RecipeError(f"origin is {shown(origin)}: expected an object or null")
    return RecipeFile(compressor, content["name"], _model(content.get("model")), origin)


@cache
def known_classes() -> dict[str, type]:
    """Returns the classes of this package that a file may name."""
    public = chain.from_iterable((getattr(package, name) for name in package.__all__) for package in _PACKAGES)
    return {kind.__name__: kind for kind in (*public, *_VALUES) if is_dataclass(kind)}


def _class(name: object, place: str) -> Any:  # noqa: ANN401 (any class)
    """Returns a class by its name."""
    if isinstance(name, str):
        if name in known_classes():
            return known_classes()[name]
        if name in installed_plugins(GROUP):
            try:
                if is_dataclass(found := import_plugin(GROUP, name)) and isinstance(found, type):
                    return found
            except FoveateError as error:
                raise RecipeError(f"{place}.class: {error}") from error
    raise RecipeError(
        f"{place}.class is {shown(name)}: no class of foveate {version('foveate')}, nor of an installed package (entry "
        f"points of the group {GROUP}); install the package that it comes from"
    )


def _name_of(kind: type, place: str) -> str:
    """Returns the name by which a file names a class."""
    if known_classes().get(kind.__name__) is kind:
        return kind.__name__
    for name in installed_plugins(GROUP):
        if import_plugin(GROUP, name) is kind:
            return name
    raise RecipeError(
        f"{place} is a {kind.__module__}.{kind.__qualname__}, which a file cannot name: expected a frozen dataclass of "
        f"foveate or of an installed package, whose entry point in the group {GROUP} names it"
    )


def _encoded(value: Any, place: str) -> Any:  # noqa: ANN401 (any value)
    """Returns a value as plain JSON."""
    if is_dataclass(value) and not isinstance(value, type):
        parts = {field.name: getattr(value, field.name) for field in _given(type(value))}
        return {"class": _name_of(type(value), place)} | {
            name: _encoded(part, f"{place}.{name}") for name, part in parts.items()
        }
    if isinstance(value, tuple):
        return [_encoded(item, f"{place}[{index}]") for index, item in enumerate(value)]
    if isinstance(value, bool | str | None):
        return value
    if isinstance(value, int):
        return int(value)
    if isinstance(value, float) and math.isfinite(value):
        return float(value)
    raise RecipeError(f"{place} is {shown(value)}: a file holds numbers, texts, switches, tuples and classes of them")


def _decoded(value: Any, place: str, depth: int = 0) -> Any:  # noqa: ANN401 (any JSON)
    """Returns the value that plain JSON describes."""
    if depth > _DEEPEST:
        raise RecipeError(f"it has more than {_DEEPEST} values inside each other, so it is no recipe")
    if isinstance(value, list):
        return tuple(_decoded(item, f"{place}[{index}]", depth + 1) for index, item in enumerate(value))
    if not isinstance(value, dict):
        return value
    kind = _class(value.get("class"), place)
    wanted = {field.name: _is_needed(field) for field in _given(kind)}
    _check_keys(f"{place}.", value, {"class": True} | wanted)
    parts = {name: _decoded(part, f"{place}.{name}", depth + 1) for name, part in value.items() if name != "class"}
    hints: dict[str, Any] = {field.name: field.type for field in _given(kind)}
    for name, part in parts.items():
        if not _fits(part, hints[name]):
            raise RecipeError(f"{place}.{name} is {shown(value[name])}: expected {_described(hints[name])}")
    try:
        return kind(**parts)
    except Exception as error:  # a class of another package may raise any
        raise RecipeError(f"{place}: {message_of(error)}") from error


def _given(kind: Any) -> Iterator[Field]:  # noqa: ANN401 (a dataclass)
    """Yields the fields of a class that its constructor takes and that it stores."""
    return (field for field in fields(kind) if field.init and not isinstance(getattr(kind, field.name, 0), property))


def _is_needed(field: Field) -> bool:
    return field.default is MISSING and field.default_factory is MISSING


def _fits(value: object, hint: Any) -> bool:  # noqa: ANN401 (a type hint)
    """Returns whether a value has the class that a hint names; numbers and words are checked by the classes."""
    origin, parts = get_origin(hint), get_args(hint)
    if origin is Annotated:
        return _fits(value, parts[0])
    if origin in (Union, UnionType):
        return any(_fits(value, part) for part in parts)
    if origin is tuple:
        return isinstance(value, tuple) and all(_fits(item, parts[0]) for item in value)
    if isinstance(hint, type) and hint not in (int, float, bool):
        return isinstance(value, hint)
    return not is_dataclass(value) and not isinstance(value, tuple)


def _described(hint: Any) -> str:  # noqa: ANN401 (a type hint)
    origin, parts = get_origin(hint), get_args(hint)
    if origin is Annotated:
        return _described(parts[0])
    if origin in (Union, UnionType):
        return " or ".join(map(_described, parts))
    return f"a list, each item {_described(parts[0])}" if origin is tuple else getattr(hint, "__name__", str(hint))


def _check_keys(place: str, given: Mapping[str, Any], known: Mapping[str, bool]) -> None:
    """Checks the keys of an object.

    Args:
        place: Where the object stands, with a dot at the end.
        given: The object.
        known: The known keys, and whether they are needed.

    Raises:
        RecipeError: A key is unknown or missing.
    """
    if unknown := sorted(set(given) - set(known)):
        raise RecipeError(f"{place}{shown(unknown[0])[1:-1]} is unknown; known are {shown_some(known, 12)}")
    if missing := [name for name, needed in known.items() if needed and name not in given]:
        raise RecipeError(f"{place}{missing[0]} is missing")


def _model(value: Any) -> ChosenFor | None:  # noqa: ANN401 (any JSON)
    if value is None:
        return None
    if not isinstance(value, dict):
        raise RecipeError(f"model is {shown(value)}: expected an object or null")
    kinds = {field.name: field.type for field in fields(ChosenFor)}
    _check_keys("model.", value, {field.name: _is_needed(field) for field in fields(ChosenFor)})
    for name, part in value.items():
        if type(part) is not kinds[name]:
            raise RecipeError(f"model.{name} is {shown(part)}: expected {_described(kinds[name])}")
    return ChosenFor(**value)


def _json(data: bytes) -> Any:  # noqa: ANN401 (any JSON)
    try:
        return json.loads(data.decode("utf-8"), parse_constant=_refused, object_pairs_hook=_unique)
    except RecipeError:
        raise
    except (ValueError, RecursionError) as error:
        raise RecipeError(f"it is damaged, or no JSON: {message_of(error)}") from error


def _refused(word: str) -> None:
    raise RecipeError(f"{word} is no number of JSON")


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise RecipeError("an object has a key twice")
    return found
