"""How all experiments run: arguments, errors, interruption, and what a finished command remembers."""

import errno
import logging
import os
import signal
import sys
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import redirect_stdout, suppress
from dataclasses import replace
from functools import partial, wraps
from importlib.resources import files
from pathlib import Path
from typing import Any, NoReturn

import tyro

from foveate.core.errors import FoveateError, behind, interrupted
from foveate.core.finished import RESULTS, Copied, command_of, remember, remembered
from foveate.data.names import parsed
from foveate.evaluation.devices import lead
from foveate.evaluation.interruption import hear_nothing_more, leave_first, overhear_nothing
from foveate.models.loading.names import REFERENCE
from foveate.options import Checked, Options

_LIGHTNING = "accelerators callbacks core loggers loops plugins profilers strategies trainer tuner utilities".split()
_CHATTER = {  # below the loggers `lightning_fabric` and `pytorch_lightning`, whose levels their import sets
    **dict.fromkeys((f"lightning_fabric.{part}" for part in _LIGHTNING), logging.WARNING),
    **dict.fromkeys((f"pytorch_lightning.{part}" for part in _LIGHTNING), logging.WARNING),
    "lightning_fabric.strategies.launchers": logging.INFO,  # says who died
    "pytorch_lightning.utilities.rank_zero": logging.WARNING,
    "pytorch_lightning.loggers.mlflow": logging.ERROR,  # warns of what it creates
    "mlflow.store": logging.WARNING,
}
_NOISE = (
    ".*does not have many workers",  # prediction does not wait for data here
    "Couldn't infer the batch indices",  # records carry the ids of their samples
    ".*LeafSpec",  # between Lightning and torch
    ".*is experimental",
    ".*is an experimental feature",
)
_REFUSED = {getattr(errno, name) for name in "EACCES EPERM EROFS ENOSPC EDQUOT EFBIG EIO EPIPE".split()}


def run(main: Callable[..., None]) -> None:
    """Parses the command line into the arguments of `main`; what a user can mend is said in one line, exit status 2.

    Ctrl-C is said in one line as well, exit status 130.
    """
    for name, level in _CHATTER.items():
        logging.getLogger(name).setLevel(level)
    for message in _NOISE:
        warnings.filterwarnings("ignore", message=message)
    overhear_nothing()
    try:
        tyro.cli(_led(main))
    except (KeyboardInterrupt, Exception) as error:
        if interrupted(error):
            _stopped("")
        if isinstance(error, FoveateError):
            what = str(error)
        elif refused := _refused(error):
            what = f"{refused}. What is finished is kept: mend that and run the same command again"
        else:
            raise
        print(f"error: {what}", file=sys.stderr)
        sys.exit(2)
    finally:
        leave_first()  # what was imported meanwhile may have registered something


def _refused(error: BaseException) -> str:
    """What disk or database said when they did not take what was written, if that is behind an error."""
    from sqlalchemy.exc import OperationalError

    def refused(one: BaseException) -> bool:
        return isinstance(one, OperationalError) or (isinstance(one, OSError) and one.errno in _REFUSED)

    found = behind(error, refused)
    return str(found).splitlines()[0] if found else ""


def _led(main: Callable[..., None]) -> Callable[..., None]:
    """`main` in the first of the processes that its options ask for."""

    @wraps(main)
    def led(**arguments: object) -> None:
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
            print(printed, end="")
            print("Nothing was left to do: this command has finished, and no file has changed since.", file=sys.stderr)
            return None
        begun = time.time()
        heard: Any = Copied(sys.stdout)
        with redirect_stdout(heard):
            task = partial(_said_how_to_go_on, main, arguments, options.out)
            lead(task, options.device, options.devices, options.nodes)
        if inputs and RESULTS:
            _remember(folder, command, heard.text, inputs, begun)

    return led


def _inputs(options: Options) -> list[Path]:
    """Returns files and folders that a command's results depend on besides its code; none if it is not remembered.

    It is not with a database or checkpoint elsewhere, nor for several devices, each of which would print the report.
    """
    models = [Path(str(files("foveate.reference"))) if one == REFERENCE else Path(one) for one in options.model]
    data = [Path(place) for _, place in map(parsed, options.data) if place]
    try:
        alone = options.storage is None and options.devices * options.nodes == 1
        there = alone and all(path.exists() for path in (*models, *data))
    except (OSError, ValueError):  # no file can have such a name
        there = False
    return [*models, *data] if there else []


def _remember(folder: Path, command: str, printed: str, inputs: Sequence[Path], begun: float) -> None:
    from foveate.evaluation.source import is_own

    loaded = [(name, getattr(module, "__file__", None)) for name, module in sys.modules.items()]
    code = [Path(path) for name, path in loaded if path and (is_own(name) or name.partition(".")[0] == "foveate")]
    found = [path for results in RESULTS.values() for path in results()]
    remember(folder, command, printed, [*inputs, *code], found, begun)


def _said_how_to_go_on(main: Callable[..., None], arguments: Mapping[str, object], out: Path) -> None:
    if sys.stderr.isatty():
        print(f"Results go to {out}/. Ctrl-C ends the run after a batch; the same command goes on.", file=sys.stderr)
    try:
        main(**arguments)
    except (KeyboardInterrupt, Exception) as error:
        if not interrupted(error):
            raise
        _stopped(f": what is finished is kept in {out}/, and the same command goes on")


def _stopped(how_to_go_on: str) -> NoReturn:
    """Says so, if anybody is left who reads it: what a pipe leads to has heard Ctrl-C as well."""
    hear_nothing_more()
    with suppress(OSError):
        print(f"\nstopped{how_to_go_on}", file=sys.stderr, flush=True)
    try:
        sys.stdout.flush()
    except OSError:  # else Python tries once more and changes the status
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # once more stops at once, whatever is still tidied up
    sys.exit(130)
