"""Hashes of Python source without layout, comments and docstrings, and of the source that it imports."""

import ast
import functools
import hashlib
import sys
import sysconfig
from collections.abc import Iterator
from importlib.machinery import ModuleSpec
from importlib.metadata import PackageNotFoundError, packages_distributions, version
from importlib.util import find_spec
from pathlib import Path

OURS = "foveate"
_STANDARD = Path(sysconfig.get_path("stdlib")).resolve()


def tree_hash(source: bytes, name: str = "source") -> str:
    """Returns the hash of Python source without comments, docstrings and layout.

    Args:
        source: The content of a file.
        name: Name of the file in syntax errors.
    """
    return _hash(ast.parse(source, name))


def own_code(module: str) -> str:
    """Returns the hash of a module's source and of the source that it imports; empty if it has no file.

    The docstring of `identity` says which modules count.
    """
    trees: dict[str, str] = {}
    versions: set[str] = set()
    package, left = top_of(module), _with_parents(module)
    while left:
        name = left.pop()
        if name in trees or (source := source_of(name)) is None:
            continue
        if source.suffix != ".py":
            trees[name] = hashlib.sha256(source.read_bytes()).hexdigest()
            continue
        tree = ast.parse(source.read_bytes(), str(source))
        trees[name] = _hash(tree)
        for imported in _imported(tree, name, source.name == "__init__.py"):
            if is_own(imported, package):
                left.append(imported)
            else:
                versions.update(versions_of(imported))
    if not trees:
        return ""
    known = {"" if name == module else name.removeprefix(f"{package}."): tree for name, tree in trees.items()}
    return digest("modules", *(part for pair in sorted(known.items()) for part in pair), *sorted(versions))


def top_of(module: str | None) -> str:
    """Returns the name of the package that a module lies in."""
    return (module or "").partition(".")[0]


def _with_parents(module: str) -> list[str]:
    parts = module.split(".")
    return [".".join(parts[:end]) for end in range(1, len(parts) + 1)]


def is_own(module: str | None, package: str = "") -> bool:
    """Returns whether the code of a module counts: it is not installed, or belongs to the plug-in's own `package`."""
    top = top_of(module)
    if not top or top == OURS or top in sys.stdlib_module_names - {"__main__"}:
        return False
    if top == package or (path := _path_of(top)) is None:
        return True
    return not ({"site-packages", "dist-packages"} & set(path.parts) or path.is_relative_to(_STANDARD))


def _path_of(top: str) -> Path | None:
    """Returns the path of a top-level module or package."""
    found = sys.modules.get(top) or _spec(top)
    path = getattr(found, "__file__", None) or getattr(found, "origin", None)
    folders = getattr(found, "__path__", None) or getattr(found, "submodule_search_locations", None)
    path = path or next(iter(folders or ()), None)
    return Path(path).resolve() if path else None


def source_of(module: str | None) -> Path | None:
    """Returns the file of a module, if it has one."""
    found = sys.modules.get(module or "")
    path = getattr(found, "__file__", None)
    if path is None and found is None and module:
        spec = _spec(module)
        path = spec.origin if spec and spec.has_location else None
    return Path(path) if path and Path(path).is_file() else None


def _spec(module: str) -> ModuleSpec | None:
    try:
        return find_spec(module)
    except (ImportError, ValueError, AttributeError):
        return None


def _imported(tree: ast.AST, module: str, is_package: bool) -> Iterator[str]:
    """Yields the full names of the modules that a module imports anywhere, with the packages that they lie in."""
    package = module.split(".") if is_package else module.split(".")[:-1]
    for node in ast.walk(tree):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else []
            base = ".".join([*above, *([node.module] if node.module else [])])
            names = [base, *(f"{base}.{alias.name}" for alias in node.names if _is_module(f"{base}.{alias.name}"))]
        for name in names:
            yield from _with_parents(name)


def _is_module(name: str) -> bool:
    return name in sys.modules or (is_own(name) and _spec(name) is not None)


@functools.cache
def _distributions() -> dict[str, list[str]]:
    return dict(packages_distributions())


def versions_of(module: str | None) -> list[str]:
    """Returns name and version of the distribution of another package's module, if it has one."""
    top = top_of(module)
    if not top or top == OURS or top in sys.stdlib_module_names:  # this package's own code is hashed separately
        return []
    try:
        return [f"{top} {version(top)}"]
    except PackageNotFoundError:
        return [f"{name} {version(name)}" for name in sorted(set(_distributions().get(top, ())))]


def _hash(tree: ast.AST) -> str:
    return hashlib.sha256("\n".join(_nodes(tree)).encode()).hexdigest()


def _nodes(node: object) -> Iterator[str]:
    """Yields the nodes of a syntax tree, without layout, docstrings and other statements that are only text.

    Empty fields are left out, so that versions of Python with additional fields agree.
    """
    if isinstance(node, ast.AST):
        yield f"({type(node).__name__}"
        for field in node._fields:
            value = getattr(node, field, None)
            if isinstance(value, list):
                value = [
                    item for item in value if not (isinstance(item, ast.Expr) and isinstance(item.value, ast.Constant))
                ]
            if field not in ("ctx", "kind", "type_comment") and value is not None and value != []:
                yield field
                yield from _nodes(value)
        yield ")"
    elif isinstance(node, list):
        yield "["
        for item in node:
            yield from _nodes(item)
        yield "]"
    else:
        yield f"{type(node).__name__} {node!r}"


def digest(*parts: object) -> str:
    """Returns the hash of parts, each with its length, so that different lists of parts never have the same hash."""
    whole = hashlib.sha256()
    for part in parts:
        content = str(part).encode(errors="surrogatepass")
        whole.update(len(content).to_bytes(8, "big") + content)
    return whole.hexdigest()
