"""Installs a built wheel into empty environments and runs it there: python -m tests.wheel [PYTHON ...].

With the core packages: the first example of the README that needs no checkpoint, `methods` and `doctor`, and the error
of a command whose extra is missing. With the extra `studies`: a small ablation. Default is the Python that runs this.
"""

import os
import re
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

ROOT = Path(__file__).parents[1]
ABLATION = ("ablate", "--limit", "14", "--keep", "16", "--layers", "5", "--max-new-tokens", "4")


def main() -> None:
    wheels = sorted((ROOT / "dist").glob("*.whl"))
    if len(wheels) != 1:
        sys.exit(f"dist has {len(wheels)} wheels; expected one: make wheel")
    for python in sys.argv[1:] or [sys.executable]:
        with TemporaryDirectory() as folder:
            check(python, wheels[0], Path(folder))


def check(python: str, wheel: Path, folder: Path) -> None:
    call([python, "-m", "venv", "environment"], folder)
    bin_folder = folder / "environment" / "bin"
    install = [bin_folder / "python", "-m", "pip", "install", "-q", "--disable-pip-version-check"]
    call([*install, "-c", ROOT / "constraints.txt", wheel], folder)
    print(call([bin_folder / "python", "--version"], folder).strip(), "with the core packages")
    print(call([bin_folder / "python", "-c", first_example()], folder))
    assert "vtc_cls" in call([bin_folder / "foveate", "methods"], folder)
    print(call([bin_folder / "foveate", "doctor"], folder))
    assert "pip install 'foveate[studies]'" in call([bin_folder / "foveate", *ABLATION], folder, status=2)
    call([*install, "-c", ROOT / "constraints.txt", f"{wheel}[studies]"], folder)
    print(call([bin_folder / "foveate", *ABLATION], folder))
    assert (folder / "runs" / "ablate_layers" / "table.csv").exists()


def first_example() -> str:
    """The first Python block of the README that loads the shipped model."""
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    return next(block for block in blocks if 'load("reference")' in block)


def call(command: list[str | Path], folder: Path, status: int = 0) -> str:
    """Runs a command outside the repository, and returns its output."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        command, cwd=folder, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    if done.returncode != status:
        sys.exit(f"{' '.join(map(str, command))[:300]}\nended with {done.returncode}:\n{done.stdout}")
    return done.stdout


if __name__ == "__main__":
    main()
