"""Hooks of mkdocs: they run tutorials, write generated parts of pages, and lead links out of `docs` to the web."""

import os
import posixpath
import re
import subprocess
import sys
from functools import cache
from inspect import signature
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))  # mkdocs loads this file by its path
from docs.blocks import BlockError, run_blocks  # noqa: E402 (after the path is set)

_HELP, _OPTIONS = "<!-- help of commands -->", "<!-- options of recipes -->"
_PACKAGE = re.compile(r"^<!-- modules of ([\w.]+) -->$", re.MULTILINE)
_run_once = cache(run_blocks)  # `mkdocs serve` builds all pages again
_OUTSIDE = re.compile(r"\]\((\.\./[^)#\s]+)(#[^)\s]*)?\)")


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Returns a page in which relative links to files outside `docs` lead to the repository on the web.

    Raises:
        PluginError: The repository has no such file, or a block of a tutorial fails.
    """
    if page.file.src_uri.startswith("tutorials/"):
        try:
            _run_once(page.file.src_uri, markdown)
        except BlockError as error:
            raise PluginError(str(error)) from error

    def address(link: re.Match[str]) -> str:
        path = posixpath.normpath(posixpath.join("docs", posixpath.dirname(page.file.src_uri), link[1]))
        if path.startswith("docs/"):
            return link[0]
        if not (ROOT / path).exists():
            raise PluginError(
                f"{page.file.src_uri}: link {link[1]!r} leads to {path}, which does not exist; correct it"
            )
        return f"]({(config.repo_url or '').rstrip('/')}/blob/main/{path}{link[2] or ''})"

    markdown = _PACKAGE.sub(lambda named: directives(named[1]), markdown)
    if _HELP in markdown:
        markdown = markdown.replace(_HELP, help_of_commands())
    if _OPTIONS in markdown:
        markdown = markdown.replace(_OPTIONS, options_of_recipes())
    return _OUTSIDE.sub(address, markdown)


def directives(package: str) -> str:
    """Returns a directive of mkdocstrings for each module of a package of plug-ins."""
    modules = sorted(path.stem for path in (ROOT / "src" / Path(*package.split("."))).glob("*.py"))
    names = [f"{package}.{module}" for module in modules if module != "__init__"]
    return "\n\n".join(f"::: {name}\n    options: {{heading_level: 2}}" for name in names)


@cache
def help_of_commands() -> str:
    """Returns what `--help` of every command prints, a section each."""
    from foveate.commands.names import COMMANDS

    return "\n\n".join(f"## foveate {name}\n\n```text\n{_help_of(name)}\n```" for name in COMMANDS)


def _help_of(command: str) -> str:
    environment = {**os.environ, "COLUMNS": "80", "NO_COLOR": "1", "TERM": "dumb"}
    words = [sys.executable, "-m", "foveate", command, "--help"]
    return subprocess.run(words, cwd=ROOT, env=environment, capture_output=True, text=True, check=True).stdout.strip()


@cache
def options_of_recipes() -> str:
    """Returns a table of the options of all recipes, with their defaults."""
    from foveate.methods import METHODS

    rows = ["| method | `keep` | options and their defaults |", "| --- | --- | --- |"]
    for name, recipe in METHODS.items():
        keep, *options = signature(recipe).parameters.values()
        shown = ", ".join(f"`{option.name}={option.default!r}`" for option in options)
        needed = "needed" if keep.default is keep.empty else "ignored"
        rows.append(f"| [`{name}`](#{recipe.__module__}.{name}) | {needed} | {shown} |")
    return "\n".join(rows)
