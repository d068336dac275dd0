"""How does accuracy fall with the number of kept patches, for chosen ways of scoring?"""

from pathlib import Path

from analysis.report import report
from foveate.cli import run
from foveate.compression import Identity
from foveate.evaluation import EvalConfig
from foveate.studies.ablation import ablate
from foveate.studies.spaces import named_choices


def main(
    scorers: tuple[str, ...] = ("cls[-2]", "cls[-1]", "cls[all]"),
    keep: tuple[int | float, ...] = (0.75, 0.5, 0.35, 0.25, 0.18, 0.125, 0.09, 0.06, 0.04, 0.03, 0.02, 0.01),
    model: str = "reference",
    data: str = "scenes",
    split: str = "test",
    limit: int | None = None,
    batch_size: int = 256,
    seed: int = 0,
    study: str = "ablate_budgets",
    storage: str | None = None,
    out: Path = Path("runs"),
    device: str = "cpu",
    dtype: str = "float32",
) -> None:
    """Evaluates the chosen scorers and the controls along a fine budget axis; see `ablate_layers.py` for the output.

    Args:
        scorers: "cls[2]" is one layer, "cls[2:]" the sum from layer 2 to the one that writes the features, "cls[all]"
            the sum of all layers.
        keep: Budgets: patches to keep, or fractions of an image's patches.
        model: "reference" (shipped), a checkpoint folder, or a hub id of a LLaVA.
        data: Data set.
        split: Split of the data set.
        limit: Number of questions; default all.
        batch_size: Questions per batch; lower it for large models.
        seed: Of the generated data.
        study: Name of the study and of its folder.
        storage: Database URL for several machines, which must share `out`; default a SQLite file in the study's
            folder.
        out: Folder of all results.
        device: Where the model runs, such as cpu or cuda.
        dtype: Of weights and activations: float32, bfloat16 or float16.
    """
    config = EvalConfig(
        Identity(), model, data, split, limit, seed, dtype=dtype, batch_size=batch_size, device=device, out=out
    )
    print(report(ablate(study, config, lambda tower: named_choices(tower, scorers), keep, storage), config))


if __name__ == "__main__":
    run(main)
