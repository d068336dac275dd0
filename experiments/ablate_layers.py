"""Which layers' [CLS] attention tells what the model needs, alone and summed, at which budgets?"""

from pathlib import Path

from analysis.report import report
from foveate.cli import run
from foveate.compression import Identity
from foveate.evaluation import EvalConfig
from foveate.studies.ablation import ablate
from foveate.studies.spaces import layer_choices


def main(
    model: str = "reference",
    data: str = "scenes",
    split: str = "test",
    limit: int | None = None,
    keep: tuple[int | float, ...] = (0.5, 0.25, 0.11, 0.05),
    layers: tuple[int, ...] = (),
    batch_size: int = 256,
    seed: int = 0,
    study: str = "ablate_layers",
    storage: str | None = None,
    out: Path = Path("runs"),
    device: str = "cpu",
    dtype: str = "float32",
) -> None:
    """Evaluates every layer, every suffix of layers, all layers and the controls at several budgets.

    Writes `<out>/<study>/{study.db, table.csv, table.md, accuracy_by_layer.png, frontier.png, kept_patches.png}`.
    A second run continues the first.

    Args:
        model: "reference" (shipped), a checkpoint folder, or a hub id of a LLaVA.
        data: Data set.
        split: Split of the data set.
        limit: Number of questions; default all.
        keep: Budgets: patches to keep, or fractions of an image's patches.
        layers: Only these single layers and starts of suffixes; default every layer.
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
    finished = ablate(study, config, lambda tower: layer_choices(tower, layers), keep, storage)
    print(report(finished, config))


if __name__ == "__main__":
    run(main)
