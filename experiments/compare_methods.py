"""Which published method keeps what the language model needs, when all are given the same number of tokens?"""

from pathlib import Path

from analysis.comparison_report import report
from foveate.cli import run
from foveate.compression import Identity
from foveate.evaluation import EvalConfig
from foveate.methods import METHODS
from foveate.studies.comparison import compare


def main(
    methods: tuple[str, ...] = tuple(METHODS),
    keep: tuple[int | float, ...] = (0.5, 1 / 3, 0.11),
    model: str = "reference",
    data: str = "scenes",
    split: str = "test",
    limit: int | None = 1200,
    batch_size: int = 256,
    seed: int = 0,
    study: str = "compare_methods",
    storage: str | None = None,
    out: Path = Path("runs"),
    device: str = "cpu",
    dtype: str = "float32",
) -> None:
    """Evaluates published methods, controls and oracles at budgets that cost the language model the same.

    Writes `<out>/<study>/{study.db, table.csv, table.md, frontier.png, ranking.png, kept_patches.png}`. A second run
    continues the first. The controls (no compression, no picture, random, even grid, pooling, smaller picture) take
    part unasked.

    Args:
        methods: Names, or your own as package.module:function, from a budget to a compressor; default all that are
            known.
        keep: Budgets in equivalent tokens, the mean of the visual tokens over the blocks of the language model: counts,
            or fractions of an image's patches.
        model: "reference" (shipped), a checkpoint folder, or a hub id of a LLaVA.
        data: Data set.
        split: Split of the data set.
        limit: Number of questions; None means all.
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
    print(report(compare(study, config, methods, keep, storage=storage), config))


if __name__ == "__main__":
    run(main)
