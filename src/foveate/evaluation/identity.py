"""Identities of values and of their code: everything that can change an answer changes the identity, and nothing else.

Covered are numbers, text, containers, tensors and arrays (by shape, dtype and bytes), functions with their defaults and
closures, and instances of any class, by their state and by the code of the class. The code of a class or function from
outside this package is its bytecode, and the syntax tree, without comments and docstrings, of its module and of all
modules that this one imports and that belong to the same package or are not installed. Installed packages count by
their version. Code without a file, as in a notebook cell, counts with the globals that it reads.

Not covered are files that the code reads, modules that it imports under a computed name, and globals of a module that
change after its import. Put such values into fields.
"""

import dis
import functools
import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import fields, is_dataclass
from enum import Enum
from pathlib import Path
from types import BuiltinFunctionType, CodeType, FunctionType, MethodType, ModuleType
from typing import Any, get_origin

import numpy as np
import torch

from foveate.core.errors import OptionError, shown
from foveate.evaluation.source import OURS, digest, is_own, own_code, source_of, top_of, versions_of

_GENERATED = "<string>"  # the file name of methods that `dataclass` writes
_BOOKKEEPING = frozenset(
    "__module__ __qualname__ __dict__ __weakref__ __doc__ __annotations__ __annotate__ __annotate_func__ __slots__ "
    "__annotations_cache__ __match_args__ __dataclass_fields__ __dataclass_params__ __abstractmethods__ __parameters__ "
    "__orig_bases__ __static_attributes__ __firstlineno__ __type_params__ __hash__ _abc_impl".split()
)


class UnidentifiedValue(OptionError):
    """A value that cannot be distinguished from another one, so that stored answers could belong to either."""


def identity_of(value: object, name: str = "value") -> str:
    """Returns a hash that two values share if and only if nothing in them can make answers differ.

    Args:
        value: A compressor, or any other value.
        name: Name of the value in errors.

    Raises:
        UnidentifiedValue: It holds something that cannot be identified, such as an open file or a generator.
    """
    return _Walk().value(value, name)[:16]


class _Walk:
    """One traversal of a value, which remembers the enclosing values so that cycles end."""

    def __init__(self) -> None:
        self._inside: list[int] = []
        self._code: dict[str, str] = {}

    def value(self, value: object, name: str) -> str:
        """Returns the hash of any value."""
        if id(value) in self._inside:  # as the position of the value that it leads back to
            return digest("cycle", len(self._inside) - self._inside.index(id(value)))
        self._inside.append(id(value))
        try:
            return self._known(value, name)
        finally:
            self._inside.pop()

    def _known(self, value: Any, name: str) -> str:  # noqa: ANN401 (any value)
        match value:
            case None | bool() | int() | float() | complex() | str() | bytes() if type(value) in _PLAIN:
                return digest(type(value).__name__, repr(value))
            case np.generic():
                plain = value.item()  # np.longdouble has no equal in Python
                return (
                    self._array(np.asarray(value), name) if isinstance(plain, np.generic) else self._known(plain, name)
                )
            case torch.Tensor():
                return self._tensor(value, name)
            case np.ndarray() if type(value) is np.ndarray:
                return self._array(value, name)
            case torch.dtype() | torch.device() | torch.Size():
                return digest(type(value).__name__, repr(value))
            case Path():
                return digest("path", str(value))
            case Enum():
                return digest("enum", self.of_class(type(value), name), value.name)
            case list() | tuple() if type(value) in (list, tuple):
                return self._items(type(value).__name__, value, name)
            case set() | frozenset() if type(value) in (set, frozenset):
                return digest("set", *sorted(self.value(item, name) for item in value))
            case dict() if type(value) is dict:
                return self._mapping(value, name)
        return self._code_value(value, name)

    def _code_value(self, value: Any, name: str) -> str:  # noqa: ANN401 (any value)
        match value:
            case functools.partial():
                return self._items("partial", (value.func, value.args, value.keywords), name)
            case FunctionType():
                return self.function(value, name)
            case MethodType():
                return self._items("method", (value.__self__, value.__func__), name)
            case BuiltinFunctionType():
                free = isinstance(value.__self__, type | ModuleType | None)
                owner = "" if free else self.value(value.__self__, name)  # such as the dictionary of its own `get`
                return digest("builtin", value.__module__ or "", value.__qualname__, owner)
            case type():
                return self.of_class(value, name)
            case ModuleType():
                return self._module(value)
        if get_origin(value) is not None:  # a type hint
            return digest("hint", repr(value))
        if is_dataclass(value) and not _own_state(type(value)):
            state = {field.name: getattr(value, field.name) for field in fields(value)} | _state_of(value)
            return digest("object", self.of_class(type(value), name), self._mapping(state, name, dotted=True))
        return self._object(value, name)

    def _items(self, kind: str, items: Iterable[object], name: str) -> str:
        return digest(kind, *(self.value(item, f"{name}[{i}]") for i, item in enumerate(items)))

    def _mapping(self, items: dict[Any, Any], name: str, dotted: bool = False) -> str:
        pairs = []
        for key, item in items.items():
            pairs += [self.value(key, f"key of {name}")]
            pairs += [self.value(item, f"{name}.{key}" if dotted else f"{name}[{shown(key)}]")]
        return digest("dict", *pairs)

    def _tensor(self, value: torch.Tensor, name: str) -> str:
        if value.layout != torch.strided or value.is_quantized or value.is_meta:
            raise _unidentified(value, name, "a tensor that is neither sparse, quantized nor on the meta device")
        plain = value.detach().resolve_conj().resolve_neg().cpu().contiguous()
        content = plain.reshape(-1).view(torch.uint8).numpy().tobytes()
        parts = [tuple(value.shape), value.dtype, hashlib.sha256(content).hexdigest()]
        if type(value) not in (torch.Tensor, torch.nn.Parameter):
            parts += [self.of_class(type(value), name), self._mapping(dict(vars(value)), name, dotted=True)]
        return digest("tensor", *parts)

    def _array(self, value: np.ndarray, name: str) -> str:
        if value.dtype.hasobject:
            return self._items(f"objects {value.shape}", value.ravel().tolist(), name)
        content = np.ascontiguousarray(value).tobytes()
        return digest("array", value.shape, value.dtype.str, hashlib.sha256(content).hexdigest())

    def _object(self, value: Any, name: str) -> str:  # noqa: ANN401 (any value)
        """Returns the hash of any other instance: its class, and the state that pickling would keep."""
        try:
            reduced = value.__reduce_ex__(4)
        except (TypeError, ValueError, AttributeError) as error:
            raise _unidentified(value, name) from error
        if isinstance(reduced, str):  # the name of a global
            return digest("global", reduced, self.value(getattr(value, "__wrapped__", None), name))
        made, arguments, state, items, pairs = (*reduced, None, None, None)[:5]
        if isinstance(state, dict):
            state = {key: item for key, item in state.items() if not _remembered(type(value), key)}
        parts = [self.of_class(type(value), name), self.value(made, name), self.value(tuple(arguments or ()), name)]
        parts += [self._mapping(state, name, dotted=True)] if type(state) is dict else [self.value(state, name)]
        return digest("object", *parts, self.value(list(items or ()), name), self.value(dict(pairs or ()), name))

    def of_class(self, kind: type, name: str) -> str:
        """Returns the hash of a class: its name, code and attributes, and those of its bases."""
        plugin = any(top_of(base.__module__) == OURS for base in kind.__mro__) and top_of(kind.__module__) != OURS
        if not (plugin or is_own(kind.__module__)):
            return digest("type", kind.__module__, kind.__qualname__, *versions_of(kind.__module__))
        bases = [self.of_class(base, name) for base in kind.__bases__ if base is not object]
        held = []
        for key, item in sorted(vars(kind).items()):
            written = getattr(item, "__wrapped__", item)  # `dataclass` wraps the `__repr__` that it writes
            generated = isinstance(written, FunctionType) and written.__code__.co_filename == _GENERATED
            if key not in _BOOKKEEPING and not generated:
                held += [key, self._held(item, f"{kind.__qualname__}.{key}")]
        return digest("type", kind.__qualname__, self._code_of(kind.__module__), *bases, *held)

    def _held(self, item: Any, name: str) -> str:  # noqa: ANN401 (whatever stands in the body of a class)
        match item:
            case staticmethod() | classmethod():
                return digest(type(item).__name__, self.value(item.__func__, name))
            case property():
                return self._items("property", (item.fget, item.fset, item.fdel), name)
            case functools.cached_property():
                return digest("cached", self.value(item.func, name))
        if type(item).__name__ in ("member_descriptor", "getset_descriptor"):
            return digest("slot")
        return self.value(item, name)

    def function(self, value: FunctionType, name: str) -> str:
        """Returns the hash of a function: its code, defaults and closure."""
        named = "<" not in value.__qualname__  # as a lambda or a local function is not
        own = is_own(value.__module__)
        cells = {key: cell.cell_contents for key, cell in _cells(value)} if own or not named else {}
        parts = [value.__qualname__, self.value((value.__defaults__, value.__kwdefaults__), f"a default of {name}")]
        parts += [self._code_of(value.__module__)] if own else [value.__module__ or "", *versions_of(value.__module__)]
        if own or not named:
            parts += [self._bytecode(value, name)]
        cells.pop("__class__", None)  # of `super()`
        return digest("function", *parts, self._mapping(cells, f"the closure of {name}"))

    def _bytecode(self, function: FunctionType, name: str) -> str:
        """Returns the hash of the loaded bytecode, which the file may no longer match."""
        names: set[str] = set()
        parts = list(_instructions(function.__code__, names))
        if is_own(function.__module__) and source_of(function.__module__) is None:
            for key in sorted(names & function.__globals__.keys()):
                parts += [key, self.value(function.__globals__[key], f"the global {key!r} of {name}")]
        return digest("bytecode", *parts)

    def _module(self, module: ModuleType) -> str:
        name = module.__name__
        return digest("module", name, self._code_of(name) if is_own(name) else "", *versions_of(name))

    def _code_of(self, module: str) -> str:
        """Returns the hash of the source files behind a module; nothing where there is no file."""
        if module not in self._code:
            self._code[module] = own_code(module)
        return self._code[module]


_PLAIN = (type(None), bool, int, float, complex, str, bytes)


def _own_state(kind: type) -> bool:
    """Returns whether a class defines its state with `__getstate__`."""
    found = getattr(kind, "__getstate__", None)
    return found is not getattr(object, "__getstate__", None) and getattr(found, "__module__", "") != "dataclasses"


def _state_of(value: object) -> dict[str, Any]:
    """Returns the attributes of a dataclass instance that are not fields."""
    names = {field.name for field in fields(value)}  # type: ignore[arg-type] (a dataclass value)
    return {
        k: v for k, v in getattr(value, "__dict__", {}).items() if k not in names and not _remembered(type(value), k)
    }


def _remembered(kind: type, name: str) -> bool:
    """Returns whether an attribute is the cached result of a `cached_property`."""
    return isinstance(getattr(kind, name, None), functools.cached_property)


def _cells(function: FunctionType) -> Iterator[tuple[str, Any]]:
    for key, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
        try:
            _ = cell.cell_contents
        except ValueError:  # not filled yet
            continue
        yield key, cell


def _instructions(code: CodeType, names: set[str]) -> Iterator[object]:
    """Yields the instructions of a code object, without line numbers; adds the globals that it reads to `names`."""
    for one in dis.get_instructions(code):
        if one.opname in ("LOAD_GLOBAL", "LOAD_NAME"):
            names.add(one.argval)
        if isinstance(one.argval, CodeType):
            yield from (one.opname, *_instructions(one.argval, names))
        else:
            yield from (one.opname, repr(one.argval))


def _unidentified(value: object, name: str, expected: str = "") -> UnidentifiedValue:
    kind = f"{type(value).__module__}.{type(value).__qualname__}"
    return UnidentifiedValue(
        f"{name} is a {kind}, which cannot be distinguished from another one, so stored answers may be of either: "
        f"expected {expected or 'numbers, text, tensors, arrays, functions, or instances of classes that hold such'}. "
        "A class may leave out what cannot change an answer with __getstate__"
    )
