"""The generated tables of the docs are up to date, and the examples of `docs/how_to/families.md` run."""

import re
from pathlib import Path

import pytest
import torch
from PIL import Image

from foveate.core.budget import resolve_keep
from foveate.testing import text_models
from foveate.testing.checkpoints import save_family
from foveate.testing.families import FAMILIES
from foveate.testing.matrix import table

ROOT = Path(__file__).parents[3]


def example(family):
    return re.search(
        rf"### {re.escape(family)}\n\n```python\n(.*?)```",
        (ROOT / "docs" / "how_to" / "families.md").read_text(),
        re.DOTALL,
    )[1]


def test_the_table_of_methods_and_families_is_up_to_date():
    assert table() in (ROOT / "docs" / "reference" / "methods.md").read_text()


def test_the_table_of_language_models_is_up_to_date():
    assert text_models.table() in (ROOT / "docs" / "reference" / "language_models.md").read_text()


@torch.no_grad()
@pytest.mark.parametrize("family", FAMILIES)
def test_the_example_of_a_family_runs(family, tmp_path, monkeypatch, capsys):
    code = example(family)
    (hub,) = re.findall(r'"([\w-]+/[\w.-]+)"', code)
    image = torch.randint(256, (50, 40, 3), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    for name in ("table", *(f"frame_{number}" for number in range(4))):
        Image.fromarray(image.numpy()).save(tmp_path / f"{name}.jpg")
    save_family(family, tmp_path / "checkpoint")
    monkeypatch.chdir(tmp_path)
    said = {}
    exec(compile(code.replace(hub, "checkpoint"), f"{family}.py", "exec"), said)
    model = said.get("model") or said["loaded"].model
    assert type(model).__name__ in code
    run = said["result"]
    patches = run.scores.shape[1]
    assert [len(kept) for kept in run.kept] == [resolve_keep(0.2, patches)]
    assert (run.tokens.per_block < patches).all()
    assert capsys.readouterr().out
