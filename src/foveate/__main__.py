"""The command `foveate`."""

import inspect
import sys
from difflib import get_close_matches
from importlib import import_module

from foveate import __version__
from foveate.commands.names import COMMANDS
from foveate.core.errors import FoveateError
from foveate.core.extras import missing_package

_WITHOUT_TYRO = ("methods", "doctor")  # they run with the core packages alone

_HELP = """usage: foveate COMMAND [OPTIONS]

Visual token compression in multimodal language models, measured. `foveate COMMAND --help` explains the options.

{commands}
"""


def main() -> None:
    """Runs the command that the first argument names."""
    command, *rest = sys.argv[1:] or ["--help"]
    if command in ("--help", "-h"):
        print(_HELP.format(commands="\n".join(f"  {name:<12}{text}" for name, text in COMMANDS.items())), end="")
    elif command == "--version":
        print(f"foveate {__version__}")
    elif command not in COMMANDS:
        close = get_close_matches(command, COMMANDS, 1)
        hint = f"did you mean {close[0]!r}?" if close else f"known: {', '.join(COMMANDS)}"
        sys.exit(_error(f"command {command!r} is unknown; {hint}"))
    elif command in _WITHOUT_TYRO:
        _list(command, rest)
    else:
        try:
            run, module = import_module("foveate.cli").run, import_module(f"foveate.commands.{command}")
        except ModuleNotFoundError as error:
            if missing := missing_package(error):
                sys.exit(_error(str(missing)))
            raise
        run(module.main, f"foveate {command}", rest)


def _list(command: str, words: list[str]) -> None:
    main = import_module(f"foveate.commands.{command}").main
    if {"--help", "-h"} & {*words}:
        print(inspect.getdoc(main))
        return
    try:
        main(*words)
    except FoveateError as error:
        sys.exit(_error(str(error)))


def _error(message: str) -> int:
    print(f"error: {message}", file=sys.stderr)
    return 2


if __name__ == "__main__":
    main()
