"""Recipes of users, imported from a module or from a file."""

import hashlib
import os
import re
import sys
import traceback
from collections.abc import Callable
from importlib import import_module
from importlib.util import module_from_spec, spec_from_file_location
from inspect import signature
from pathlib import Path
from types import ModuleType

from foveate.compressors import Compressor
from foveate.core.errors import UnknownMethod, message_of, shown
from foveate.methods.registry import is_file, split_name

_EXPECTED = (
    "expected ./file.py:function, or package.module:function with the package on PYTHONPATH: a function from keep to a "
    "compressor"
)


def own_recipe(name: str) -> Callable[..., Compressor]:
    """Imports a recipe; call only with names typed by the user, never with names read from a file.

    Args:
        name: "./file.py:function" or "package.module:function".

    Raises:
        UnknownMethod: The module cannot be imported or lacks the function, or the function takes no `keep`.
    """
    module, function = split_name(name)
    try:
        found = _module_of(Path(module)) if is_file(module) else import_module(module)
    except Exception as error:  # whatever the user's code raises
        raise UnknownMethod(f"method {shown(name)} cannot be imported ({_where(error)}); {_EXPECTED}") from error
    try:
        recipe = getattr(found, function)
    except AttributeError as error:
        raise UnknownMethod(f"method {shown(name)} cannot be imported ({error}); {_EXPECTED}") from error
    try:
        if "keep" in signature(recipe).parameters:
            return recipe
    except (TypeError, ValueError):  # not a function, or one without a signature
        pass
    raise UnknownMethod(f"method {shown(name)} is {shown(recipe)}, which takes no keep; {_EXPECTED}")


def _module_of(path: Path) -> ModuleType:
    """Returns the module of a file, which is run once per process; modules beside the file can be imported by it.

    Its name contains no dot and is that of no other module, so that a run's identity and `dataclass` find its code in
    `sys.modules`.
    """
    path = path.expanduser().resolve()
    name = re.sub(r"\W", "_", path.stem) + "_" + hashlib.sha256(os.fsencode(path)).hexdigest()[:8]
    if name in sys.modules:
        return sys.modules[name]
    spec = spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise ImportError(f"{path} is no Python file; expected a name that ends in .py")
    if str(path.parent) not in sys.path:
        sys.path.append(str(path.parent))  # at the end: no file may replace a module of a library
    module = sys.modules[name] = module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def _where(error: Exception) -> str:
    """Returns the message of an error, with its type and the line that raised it unless the import itself failed."""
    if isinstance(error, ImportError | FileNotFoundError):
        return str(error)
    last = traceback.extract_tb(error.__traceback__)[-1]
    place = f"{error.filename}:{error.lineno}" if isinstance(error, SyntaxError) else f"{last.filename}:{last.lineno}"
    return f"{type(error).__name__} in {place}: {message_of(error)}"
