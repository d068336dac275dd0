"""Names of all methods, known without importing their recipes."""

import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from difflib import get_close_matches
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

from foveate.core.errors import UnknownMethod
from foveate.core.plugins import import_plugin, installed_plugins

if TYPE_CHECKING:  # torch takes a second to import
    from foveate.compressors import Compressor

_AFTER, _TOWER, _INSIDE = "after the tower", "inside the tower", "inside the language model"
_BOTH = f"{_AFTER} and {_INSIDE}"
PLACES: Mapping[str, str] = {
    **dict.fromkeys("full blind random uniform pool downsample saturation contrast edges".split(), "control"),
    "random_inside": "control",
    **dict.fromkeys(("evidence", "response_attention"), "oracle"),
    **dict.fromkeys("vtc_cls fastervlm vispruner visionzip prumerge prumerge_plus cdpruner divprune".split(), _AFTER),
    **dict.fromkeys("trim hiprune holov scope".split(), _AFTER),
    **dict.fromkeys(("flowcut", "tome", "ficoco_v"), _TOWER),
    **dict.fromkeys("otprune mmtok mmr zoo_prune prunesid prunesid_qwen hired visiontrim gprune".split(), _AFTER),
    **dict.fromkeys("fastv pyramiddrop sparsevlm sparsevlm_plus dart feather vtw fitprune".split(), _INSIDE),
    **dict.fromkeys(("vscan", "apet"), _BOTH),
    **dict.fromkeys("vidcom2 evs dycoke fastvid llava_scissor".split(), _AFTER),
    **dict.fromkeys(("sttm",), _INSIDE),
    **dict.fromkeys(("prunevid", "holitom", "flashvid"), _BOTH),
    **dict.fromkeys(("random_per_frame", "fewer_frames", "temporal_mean"), "control"),
}
"""The methods in the order of all tables, each with the place where it removes tokens, or "control" or "oracle"."""
NAMES = tuple(PLACES)
VIDEO = NAMES[NAMES.index("vidcom2") :]
"""The methods for videos, controls among them; studies of images have them if they are named."""
_ALSO_FOR_VIDEOS = "evidence vtc_cls visionzip divprune fastv pyramiddrop".split()
_MODULES = {
    "control": "controls",
    "oracle": "controls",
    _AFTER: "after_tower",
    _TOWER: "in_tower",
    _INSIDE: "in_language_model",
    _BOTH: "in_stages",
}
_RECIPE = ".json"
VARIANTS: Mapping[str, Mapping[str, bool]] = {
    "per_tile": {"per_tile": True},
    "no_separators": {"separators": False},
    "own_positions": {"own_positions": True},
}
"""Variants, written after a + in a method's name, with the arguments of `Compressor.tiled` that they mean."""
_FIRST_OF = re.compile(r"first_of_([2-9]|[1-9]\d{1,3})")


class _Recipes(Mapping[str, Callable[..., "Compressor"]]):
    """A mapping of names to recipes that imports them on first access."""

    def __getitem__(self, name: str) -> Callable[..., "Compressor"]:
        if name in NAMES:
            of_video = name in VIDEO and PLACES[name] != "control"
            module = "video" if of_video else _MODULES[PLACES[name]]
            return getattr(getattr(import_module("foveate.methods.recipes"), module), name)
        if name in installed_plugins("foveate.methods"):
            return import_plugin("foveate.methods", name)
        raise KeyError(name)

    def __contains__(self, name: object) -> bool:
        return name in NAMES or name in installed_plugins("foveate.methods")

    def __iter__(self) -> Iterator[str]:
        return iter(dict.fromkeys((*NAMES, *installed_plugins("foveate.methods"))))

    def __len__(self) -> int:
        return sum(1 for _ in self)


METHODS: Mapping[str, Callable[..., "Compressor"]] = _Recipes()
"""All recipes by name, with those of installed packages (entry points of the group `foveate.methods`)."""


def usual_methods(videos: bool) -> tuple[str, ...]:
    """Returns the methods of a comparison that names none: for images all that are not for videos alone.

    For videos these are the methods for videos, and some that take all frames for one image, as published numbers of
    videos have them. Methods of installed packages are in both.

    Args:
        videos: Whether questions are about videos.
    """
    own = {*VIDEO, *_ALSO_FOR_VIDEOS} if videos else {*NAMES} - {*VIDEO}
    return tuple(name for name in METHODS if name in own or name not in NAMES)


def split_name(name: str) -> tuple[str, str]:
    """Splits "./file.py:function" or "package.module:function" at its last colon; without one, the first is empty."""
    module, _, function = name.rpartition(":")
    return module, function


def is_file(module: str) -> bool:
    """Returns whether the module part of a method's name is a file: it ends in ".py" or contains a separator."""
    return module.endswith(".py") or "/" in module or os.sep in module


def is_recipe_file(name: str) -> bool:
    """Returns whether a method's name, with variants or without, is the path of a recipe file."""
    _, ending, variants = name.rpartition(_RECIPE)
    return bool(ending) and variants[:1] in ("", "+")


def label_of(name: str) -> str:
    """Returns the name of a method in tables: of a user's own that of its function, of a recipe file that of the file.

    Args:
        name: Name of the method, with variants if any.
    """
    path, _, variants = name.rpartition(_RECIPE)
    return Path(path).name + variants if is_recipe_file(name) else name.rpartition(":")[2]


def parts_of(name: str) -> tuple[str, list[str]]:
    """Splits a name into the name of a method and its variants.

    Args:
        name: Name in `METHODS`, or a function as "./file.py:function" or "package.module:function", which is not
            imported here, or a recipe file, which is not read here; variants follow, each after a +.

    Raises:
        UnknownMethod: The method or a variant is unknown, or the file does not exist.
    """
    if is_recipe_file(name):
        path, ending, rest = name.rpartition(_RECIPE)
        _check_variants(name, variants := rest.split("+")[1:])
        _check_file(name, path + ending, "a recipe file")
        return path + ending, variants
    module, rest = split_name(name)
    function, *variants = rest.split("+")
    plain = f"{module}:{function}" if ":" in name else function
    _check_variants(name, variants)
    if module and is_file(module):
        _check_file(name, module)
    elif is_file(function):
        raise UnknownMethod(f"method {name!r} is a file: expected the name of a function after it, such as {name}:mine")
    if plain not in METHODS and not (module and function):
        near = get_close_matches(plain, METHODS, n=3, cutoff=0.5)
        hint = f"did you mean {' or '.join(near)}?" if near else f"known are {', '.join(METHODS)}."
        raise UnknownMethod(
            f"method {plain!r} is unknown; {hint} Your own is given as ./file.py:function or package.module:function, "
            "and a recipe file as recipe.json"
        )
    return plain, variants


def turns_of(variants: Iterable[str]) -> int:
    """Returns the number of questions that share a choice: n for the variant "first_of_n", else 1."""
    return max((int(found[1]) for found in map(_FIRST_OF.fullmatch, variants) if found), default=1)


def _check_variants(name: str, variants: Iterable[str]) -> None:
    for variant in variants:
        if variant not in VARIANTS and not _FIRST_OF.fullmatch(variant):
            raise UnknownMethod(
                f"method {name!r}: {variant!r} is unknown; variants are +{', +'.join(VARIANTS)}, and +first_of_2 to "
                "+first_of_9999"
            )


def _check_file(name: str, module: str, kind: str = "a Python file") -> None:
    try:
        found = Path(module).expanduser().is_file()
    except (OSError, ValueError, RuntimeError):  # no file can have such a name
        found = False
    if not found:
        raise UnknownMethod(f"method {name!r}: there is no file {module!r}; expected the path of {kind}")


def check_names(names: Iterable[str]) -> None:
    """Checks that all names are those of methods; see `parts_of`.

    Raises:
        UnknownMethod: The method or a variant is unknown.
    """
    for name in names:
        parts_of(name)


def pairs_of(texts: Iterable[str], methods: Iterable[str]) -> tuple[tuple[str, str], ...]:
    """Splits texts such as "vtc_cls:fastv" into pairs of methods.

    Args:
        texts: Two names each, with a colon between; a user's own method is named by its function.
        methods: Names of the methods of the comparison, a user's own as "package.module:function" or recipe files.

    Raises:
        UnknownMethod: A text has another form, or names a method that is unknown, or a pair stands twice.
    """
    known = {label_of(name) for name in methods}
    pairs = []
    for text in dict.fromkeys(texts):
        first, colon, second = text.partition(":")
        if not (first and colon and second) or ":" in second or first == second:
            raise UnknownMethod(
                f"pair {text!r}: expected two different methods with a colon between, such as vtc_cls:fastv"
            )
        if (second, first) in pairs:
            raise UnknownMethod(f"pair {text!r}: {second}:{first} is the same comparison; name one of the two")
        check_names(name for name in (first, second) if name not in known)
        pairs.append((first, second))
    return tuple(pairs)
