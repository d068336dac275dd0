"""Blocks of Python of the pages, which are run when the site is built (tutorials) and by the tests (all pages).

The blocks of a page run in order, in one namespace and in an empty folder. A block that begins with the comment
`# name.py` is written to that file, too, so later blocks can import it. Where a block of `text` follows, it holds what
the block prints. `<!-- run` begins a comment with code that prepares the page and is not shown. The comment
`<!-- not run: reason -->` before a block excludes it.
"""

import re
import sys
from contextlib import chdir, redirect_stdout
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from tempfile import TemporaryDirectory

_BLOCK = re.compile(
    r"(?:^<!-- not run: (?P<reason>[^\n]+?) -->\n+)?^```python\n(?P<code>.*?)^```\n(?:\n```text\n(?P<printed>.*?)^```)?"
    r"|^<!-- run\n(?P<prepared>.*?)^-->",
    re.DOTALL | re.MULTILINE,
)


@dataclass(frozen=True)
class Block:
    """A block of Python of a page.

    Attributes:
        line: Number of its first line in the page.
        code: The code.
        printed: What it must print; None if the page does not say.
        reason: Why it is not run; None if it is.
    """

    line: int
    code: str
    printed: str | None = None
    reason: str | None = None


class BlockError(Exception):
    """A block of a page fails, or prints something else than the page says."""


def blocks_of(text: str) -> list[Block]:
    """Returns the blocks of a page, in order."""
    found = []
    for match in _BLOCK.finditer(text):
        name = "code" if match["prepared"] is None else "prepared"
        line = text.count("\n", 0, match.start(name)) + 1
        found.append(Block(line, match[name], match["printed"], match["reason"]))
    return found


def run_blocks(page: str, text: str) -> None:
    """Runs the blocks of a page.

    Args:
        page: Path of the page, for messages.
        text: Text of the page.

    Raises:
        BlockError: A block fails, or prints something else than the page says.
    """
    names: dict[str, object] = {"__name__": "page"}
    modules, path = {*sys.modules}, [*sys.path]
    with TemporaryDirectory() as folder, chdir(folder):
        sys.path.insert(0, folder)
        try:
            for block in blocks_of(text):
                if block.reason is None:
                    _run(page, block, names)
        finally:
            sys.path[:] = path
            for name in {*sys.modules} - modules:  # those of the folder
                if str(getattr(sys.modules[name], "__file__", None)).startswith(folder):
                    del sys.modules[name]


def _run(page: str, block: Block, names: dict[str, object]) -> None:
    if file := re.match(r"# (\w+\.py)\b", block.code):
        Path(file[1]).write_text(block.code)
    printed = StringIO()
    try:
        with redirect_stdout(printed):
            exec(compile("\n" * (block.line - 1) + block.code, page, "exec"), names)
    except Exception as error:
        raise BlockError(f"{page}: the block at line {block.line} fails: {type(error).__name__}: {error}") from error
    if block.printed is not None and printed.getvalue().strip() != block.printed.strip():
        given = f"{page}: the block at line {block.line} prints\n{printed.getvalue()}"
        raise BlockError(f"{given}\nwhich is not what the page says: correct the code, or the text below it")
