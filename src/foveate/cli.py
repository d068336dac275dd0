"""The command line of all experiments: arguments, errors, processes, and reports of finished commands."""

import errno
import os
import signal
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack, redirect_stdout
from dataclasses import replace
from functools import wraps
from pathlib import Path
from types import FrameType
from typing import Literal, NoReturn, TextIO, cast

import tyro

from foveate.core.allocator import keep_freed_memory
from foveate.core.errors import DataError, FoveateError, behind, interrupted, lacks_memory
from foveate.core.extras import missing_package
from foveate.core.finished import RESULTS, Copied, command_of, remember, remembered
from foveate.core.progress import disable_bars
from foveate.core.quiet import silence
from foveate.data.names import GENERATED, TABLE_SPLIT, parsed, table_of
from foveate.evaluation.ranks import notice, rank, workers
from foveate.models.loading.names import SHIPPED, folder_of
from foveate.options import Checked, Options

_REFUSED = {getattr(errno, name) for name in "EACCES EPERM EROFS ENOSPC EDQUOT EFBIG EIO EPIPE".split()}


def run(main: Callable[..., None], name: str | None = None, words: Sequence[str] | None = None) -> None:
    """Parses the command line into the arguments of `main`, and runs it.

    An error that the user can resolve is printed in one line, with exit status 2; Ctrl-C ends with one line and 130.

    Args:
        main: The command.
        name: Name of the command in its help; None is the script's.
        words: The arguments; None are those of the process. `sys.argv` stays, because further processes are started
            with it.
    """
    pressed: list[int] = []

    def note(number: int, frame: FrameType | None) -> None:
        pressed.append(number)
        signal.default_int_handler(number, frame)

    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # not with nohup, which ignores it
        signal.signal(signal.SIGINT, note)
    silence()
    keep_freed_memory()
    try:
        tyro.cli(_with_processes(main), prog=name, args=words)
    except (KeyboardInterrupt, Exception) as error:
        if interrupted(error) or pressed:  # code in C turns the exception into another, without a chain
            _end("\nstopped; the same command resumes", 130)
        if isinstance(error, FoveateError):
            _end(f"error: {error}", 2)
        if lacks_memory(error):
            from foveate.evaluation.memory import exhausted

            _end(f"error: {exhausted('this command', error)}", 2)
        if isinstance(error, ModuleNotFoundError) and (missing := missing_package(error)):
            _end(f"error: {missing}", 2)
        if refused := _refused(error):
            _end(f"error: {refused}. Finished results are kept: solve that and run the same command again", 2)
        raise


def _end(message: str, status: int) -> NoReturn:
    if rank() == 0:
        print(message, file=sys.stderr, flush=True)
    elif status != 130:
        print(f"process {rank()}: {message}", file=sys.stderr, flush=True)
    sys.exit(status)


def _refused(error: BaseException) -> str:
    """Returns the message of a disk or database that refused to write, if that caused the error."""
    databases = sys.modules.get("sqlalchemy.exc")

    def refused(one: BaseException) -> bool:
        database = databases is not None and isinstance(one, databases.OperationalError)
        return database or (isinstance(one, OSError) and one.errno in _REFUSED)

    found = behind(error, refused)
    return str(found).splitlines()[0] if found else ""


def _with_processes(main: Callable[..., None]) -> Callable[..., None]:
    """Returns `main` with checked options; it runs in all processes, and a finished command only prints its report."""

    @wraps(main)
    def checked(**arguments: object) -> None:
        for value in arguments.values():
            if isinstance(value, Checked):
                value.check()
        options = next((value for value in arguments.values() if isinstance(value, Options)), None)
        if options is None:
            return main(**arguments)
        inputs = _inputs(options)
        command = command_of({**arguments, "options": replace(options, fresh=False)})
        folder = options.out / options.name
        if inputs and not options.fresh and (printed := remembered(folder, command)) is not None:
            if rank() == 0:
                print(printed, end="")
            notice("Nothing was left to do: this command has finished, and no file has changed since.")
            return None
        if sys.stderr.isatty():
            notice(f"Results go to {options.out}/. Ctrl-C ends the run; the same command resumes.")
        begun, copied = time.time(), Copied(sys.stdout)
        with workers(options.workers, options.device), ExitStack() as stack:
            if rank() > 0:  # rank 0 reports
                disable_bars()
                stack.enter_context(redirect_stdout(stack.enter_context(open(os.devnull, "w"))))
            else:
                stack.enter_context(redirect_stdout(cast(TextIO, copied)))
            main(**arguments)
        if inputs and RESULTS and rank() == 0:
            _remember(options, command, copied.text, inputs, begun)
        return None

    return checked


def _inputs(options: Options) -> list[Path]:
    """Returns files and folders that a command's results depend on besides its code; none if it cannot be remembered.

    That is so with a database on a server, or a checkpoint or data set on the hub. Tables of the user's own follow
    when the command has finished (`_tables`), because their images are named in them.
    """
    models = [Path(folder_of(one, part)) for one in options.model for part in _parts(one)]
    named = [parsed(data) for data in options.data if table_of(data) is None]
    data = [Path(location) for name, location in named if location and name not in GENERATED]
    try:
        local = options.storage is None and all(path.exists() for path in (*models, *data))
    except (OSError, ValueError):  # no file can have such a name
        local = False
    return [*models, *data] if local else []


def _parts(model: str) -> tuple[Literal["llava", "clip"], ...]:
    return ("llava", "clip") if model in SHIPPED else ("llava",)


def _tables(options: Options) -> list[Path] | None:
    """Returns the files of tables of the user's own, with their images; None if one is missing, or was removed."""
    tables = [table for table in map(table_of, options.data) if table]
    if not tables:
        return []
    from foveate.data.table import files_of

    try:
        return [file for table in tables for file in files_of(table, options.split or TABLE_SPLIT)]
    except DataError:
        return None


def _remember(options: Options, command: str, printed: str, inputs: Sequence[Path], begun: float) -> None:
    from foveate.evaluation.source import is_own

    if (tables := _tables(options)) is None:
        return
    loaded = [(name, getattr(module, "__file__", None)) for name, module in sys.modules.items()]
    code = [Path(path) for name, path in loaded if path and (is_own(name) or name.partition(".")[0] == "foveate")]
    found = [path for results in RESULTS.values() for path in results()]
    remember(options.out / options.name, command, printed, [*inputs, *tables, *code], found, begun)
