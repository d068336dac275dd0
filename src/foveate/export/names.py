"""Names of the files of a program, known without importing torch."""

from pathlib import Path

from foveate.core.errors import OptionError

PT2, ONNX = ".pt2", ".onnx"


def check_path(path: Path) -> None:
    """Checks that a file's name says which kind of program it holds.

    Raises:
        OptionError: It ends in neither ".pt2" nor ".onnx".
    """
    if path.suffix not in (PT2, ONNX):
        raise OptionError(f"program {str(path)!r}: expected a name that ends in {PT2} (torch.export) or {ONNX}")


def golden_of(path: Path) -> Path:
    """Returns the file of golden inputs and outputs beside a program."""
    return path.with_name(f"{path.stem}.golden.safetensors")
