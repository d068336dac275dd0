"""Installs a built wheel into empty environments and runs it there: python -m tests.wheel [PYTHON ...].

With the core packages: the first example of the README that needs no checkpoint, `methods` and `doctor`, and the error
of a command whose extra is missing. With the extra `studies`: a table of six own images, about which the scorer of
docs/tutorials/own_scorer.md, given as a file, is compared with three methods. Default is the Python that runs this.
"""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

ROOT = Path(__file__).parents[1]
COMPARE = "compare --data questions.jsonl --methods ./mine.py:last_minus_first vtc_cls fastv divprune --keep 16".split()
TABLE = """
import json
from foveate import load_samples

samples = {sample.image_id: sample for sample in load_samples("scenes", "test", limit=42)}.values()
with open("questions.jsonl", "w") as table:
    for sample in list(samples)[:6]:
        sample.image.save(f"{sample.image_id}.png")
        row = {"image": f"{sample.image_id}.png", "question": sample.question, "answer": sample.references[0]}
        print(json.dumps(row), file=table)
"""


def main() -> None:
    wheels = sorted((ROOT / "dist").glob("*.whl"))
    if len(wheels) != 1:
        sys.exit(f"dist has {len(wheels)} wheels; expected one: make wheel")
    for given in sys.argv[1:] or [sys.executable]:
        if (python := shutil.which(given)) is None:
            sys.exit(f"{given}: there is no such Python")
        with TemporaryDirectory() as folder:
            check(str(Path(python).absolute()), wheels[0], Path(folder))


def check(python: str, wheel: Path, folder: Path) -> None:
    call([python, "-m", "venv", "environment"], folder)
    bin_folder = folder / "environment" / "bin"
    install = [bin_folder / "python", "-m", "pip", "install", "-q", "--disable-pip-version-check"]
    call([*install, "-c", ROOT / "constraints.txt", wheel], folder)
    print(call([bin_folder / "python", "--version"], folder).strip(), "with the core packages")
    print(call([bin_folder / "python", "-c", first_example()], folder))
    assert "vtc_cls" in call([bin_folder / "foveate", "methods"], folder)
    print(call([bin_folder / "foveate", "doctor"], folder))
    assert "pip install 'foveate[studies]'" in call([bin_folder / "foveate", *COMPARE], folder, status=2)
    call([*install, "-c", ROOT / "constraints.txt", f"{wheel}[studies]"], folder)
    call([bin_folder / "python", "-c", TABLE], folder)
    scorer = (ROOT / "docs/tutorials/own_scorer.md").read_text()
    (folder / "mine.py").write_text(next(iter(blocks(scorer))))
    print(call([bin_folder / "foveate", *COMPARE], folder))
    assert "last_minus_first" in (folder / "runs" / "compare_methods_questions" / "table.csv").read_text()


def first_example() -> str:
    """The first Python block of the README that loads the shipped model."""
    return next(block for block in blocks((ROOT / "README.md").read_text()) if 'load("reference")' in block)


def blocks(page: str) -> list[str]:
    return re.findall(r"```python\n(.*?)```", page, re.DOTALL)


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
