"""Rules of style that a machine can check: openings of docstrings, sizes, words of docs/explanation/vocabulary.md."""

import ast
import io
import re
import tokenize
from collections.abc import Callable, Iterator
from functools import cache, cached_property
from pathlib import Path

ROOT = Path(__file__).parents[1]
FOLDERS = ("src/foveate", "experiments", "reference_model", "benchmarks")
MOST_LINES, MOST_ARGUMENTS, MOST_LINES_OF_A_FILE = 40, 6, 300
PROPERTIES = {"property", "cached_property", "setter"}
VERB = re.compile(r"[A-Z][a-z-]*s,?$")
NOT_VERBS = set(
    # other words that end in s, and plurals of nouns that are not also verbs
    "Always Across Analysis Axis Basis Besides Bias Class Its Less Loss Perhaps Plus These This Thus Towards Unless "
    "Accuracies Attentions Bars Cosines Dimensions Entries Features Files Gradients Ids Images Indices Inputs Lengths "
    "Lines Logits Methods Milliseconds Ones Operations Options Parameters Points Positions Questions Results "
    "Rows Seconds Sides Signals Slots Sources Texts Tokens Trials".split()
)
OPENINGS = set("What Of Where Whether Who How Likewise As".split())
ENTRY = re.compile(r"^\s+\*{0,2}\w+: (?:Of|Who|Likewise|As)\b.*")
WORDS = set("picture pictures told hush hushed torn nobody nobodys whom".split())
PHRASES = re.compile(r"\b(go(es|ing)? home|stand-ins?|made anew)\b", re.IGNORECASE)
NAMES = WORDS | set("said asked heard hears whom".split())
"""Words that no name contains; sentences may contain those of the second set."""

Offence = tuple[int, str]
Function = ast.FunctionDef | ast.AsyncFunctionDef


class Source:
    """A Python file with its syntax tree.

    Args:
        path: Relative path of the file.
        text: Text of the file.
    """

    def __init__(self, path: str, text: str) -> None:
        self.path, self.text, self.tree = path, text, ast.parse(text)

    @cached_property
    def functions(self) -> list[Function]:
        return [node for node in ast.walk(self.tree) if isinstance(node, Function)]

    @cached_property
    def tokens(self) -> list[tokenize.TokenInfo]:
        return list(tokenize.generate_tokens(io.StringIO(self.text).readline))

    @cached_property
    def docstrings(self) -> list[tuple[int, str]]:
        """Docstrings of modules, classes, functions and values, each with its line."""
        return [
            (statement.lineno, statement.value.value)
            for owner in ast.walk(self.tree)
            if isinstance(owner, ast.Module | ast.ClassDef | Function)
            for statement in owner.body
            if isinstance(statement, ast.Expr)
            and isinstance(statement.value, ast.Constant)
            and isinstance(statement.value.value, str)
        ]

    @cached_property
    def code_lines(self) -> set[int]:
        """Numbers of the lines that hold code, and not a docstring or a comment alone."""
        ignored = {
            tokenize.COMMENT,
            tokenize.NL,
            tokenize.NEWLINE,
            tokenize.INDENT,
            tokenize.DEDENT,
            tokenize.ENDMARKER,
        }
        code = [range(token.start[0], token.end[0] + 1) for token in self.tokens if token.type not in ignored]
        documented = {line for start, text in self.docstrings for line in range(start, start + text.count("\n") + 1)}
        return {line for lines in code for line in lines} - documented


@cache
def sources() -> list[Source]:
    """Returns the files that the rules apply to."""
    return [
        Source(str(path.relative_to(ROOT)), path.read_text(encoding="utf-8"))
        for folder in FOLDERS
        for path in sorted((ROOT / folder).rglob("*.py"))
    ]


def functions_open_with_a_verb(source: Source) -> Iterator[Offence]:
    """Yields docstrings of functions, except properties and tests, that do not begin with a third-person verb."""
    for function in source.functions:
        names = {getattr(node, "attr", getattr(node, "id", "")) for node in function.decorator_list}
        text = ast.get_docstring(function) or ""
        word = text.split()[0] if text else ""
        noun = names & PROPERTIES or function.name.startswith("test_")
        if word and not noun and (not VERB.match(word) or word.rstrip(",") in NOT_VERBS):
            yield function.body[0].lineno, text.splitlines()[0]


def docstrings_open_with_a_sentence(source: Source) -> Iterator[Offence]:
    """Yields docstrings that begin with a question word or a fragment, and entries that do."""
    for line, text in source.docstrings:
        first = re.match(r"\w+", text)
        if first and first[0] in OPENINGS:
            yield line, text.splitlines()[0]
        for number, entry in enumerate(text.splitlines()):
            if ENTRY.match(entry):
                yield line + number, entry.strip()


def functions_are_short(source: Source) -> Iterator[Offence]:
    """Yields functions with too many lines of code or arguments."""
    for function in source.functions:
        if is_exempt(source.path, function.name):
            continue
        lines = sum(function.lineno <= line <= (function.end_lineno or 0) for line in source.code_lines)
        if lines > MOST_LINES:
            yield function.lineno, f"{function.name} has {lines} lines of code, at most {MOST_LINES} are allowed"
        given = [*function.args.posonlyargs, *function.args.args, *function.args.kwonlyargs]
        count = len([one for one in given if one.arg not in ("self", "cls")])
        if count > MOST_ARGUMENTS:
            yield function.lineno, f"{function.name} has {count} arguments, at most {MOST_ARGUMENTS} are allowed"


def is_exempt(path: str, function: str) -> bool:
    """Returns whether a function is a command line, or has a signature that lmms-eval or Lightning prescribes."""
    command = path.startswith(("experiments/", "src/foveate/commands/")) and function == "main"
    constructor = path.startswith("src/foveate/lmms_eval/") and function == "__init__"
    return command or constructor or function == "write_on_batch_end"


def files_are_short(source: Source) -> Iterator[Offence]:
    """Yields the file if it has too many lines of code."""
    if (count := len(source.code_lines)) > MOST_LINES_OF_A_FILE:
        yield 1, f"{count} lines of code, at most {MOST_LINES_OF_A_FILE} are allowed"


def text_uses_the_vocabulary(source: Source) -> Iterator[Offence]:
    """Yields docstrings and comments that contain words of private language."""
    comments = [(token.start[0], token.string) for token in source.tokens if token.type == tokenize.COMMENT]
    for start, text in comments + source.docstrings:
        for number, line in enumerate(text.splitlines()):
            words = {word.replace("'", "") for word in re.findall(r"[a-z]+(?:'s)?", line.lower())}
            if words & WORDS or PHRASES.search(line):
                yield start + number, line.strip()


def names_use_the_vocabulary(source: Source) -> Iterator[Offence]:
    """Yields defined names that contain words of private language."""
    for node in ast.walk(source.tree):
        match node:
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) | ast.ClassDef(name=name):
                pass
            case ast.arg(arg=name):
                pass
            case ast.Name(id=name, ctx=ast.Store()) | ast.Attribute(attr=name, ctx=ast.Store()):
                pass
            case _:
                continue
        words = re.findall(r"[a-z]+", re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name).lower())
        if set(words) & NAMES:
            yield node.lineno, name


RULES: tuple[Callable[[Source], Iterator[Offence]], ...] = (
    functions_open_with_a_verb,
    docstrings_open_with_a_sentence,
    functions_are_short,
    files_are_short,
    text_uses_the_vocabulary,
    names_use_the_vocabulary,
)
