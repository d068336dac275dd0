"""Shows versions and devices, and which package is missing for what."""

import importlib.metadata
import platform
from collections.abc import Iterator

from foveate import __version__
from foveate.core.errors import OptionError, shown_some
from foveate.core.extras import CORE, packages_of_extras

_PURPOSES = {
    "studies": "the commands that evaluate: ablate, budgets, search, compare, bias, speed, reproduce, answer",
    "notebooks": "the notebooks",
    "explore": "the page `foveate explore`",
    "serve": "the server `foveate serve`, and `foveate loadtest`",
    "export": "ONNX files of `foveate export`",
    "video": "files of videos",
    "postgres": "studies that several machines share",
    "loggers": "TensorBoard, Weights & Biases, MLflow",
    "lmms": "evaluation inside lmms-eval",
}


def main(*words: str) -> None:
    """Prints versions and devices, and which package is missing for what: foveate doctor."""
    if words:
        raise OptionError(f"doctor takes no arguments, but found: {' '.join(words)}")
    packages = packages_of_extras()
    print(f"foveate {__version__}, Python {platform.python_version()}, {platform.platform()}")
    for name in packages.get(CORE, []):
        print(f"  {name} {_version(name) or 'missing'}")
    print("\nDevices")
    for line in _devices():
        print(f"  {line}")
    print("\nExtras: pip install 'foveate[NAME]'")
    for extra, purpose in _PURPOSES.items():
        missing = [name for name in packages.get(extra, []) if not _version(name)]
        state = f"missing: {shown_some(missing, 3)}" if missing else "installed"
        print(f"  {extra:<10}{purpose}\n  {'':<10}{state}")


def _devices() -> Iterator[str]:
    import torch

    yield f"cpu, {torch.get_num_threads()} threads"
    for index in range(torch.cuda.device_count()):
        free, total = torch.cuda.mem_get_info(index)
        yield f"cuda:{index}, {torch.cuda.get_device_name(index)}, {free / 2**30:.1f} of {total / 2**30:.1f} GiB free"
    if torch.backends.mps.is_available():
        yield "mps"


def _version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return ""
