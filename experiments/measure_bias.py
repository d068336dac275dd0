"""What do prompts look at, what do answers look at, what did [CLS] know, and what does the answer hang on?"""

from typing import Annotated

import tyro

from foveate.bias.plan import BiasPlan
from foveate.cli import run
from foveate.options import Flat, Options


def main(
    plan: Annotated[BiasPlan, tyro.conf.arg(name="")] = BiasPlan(),
    corrections: bool = True,
    mean_split: str | None = None,
    options: Flat = Options("measure_bias", limit=504, batch_size=48),
) -> None:
    """Measures every signal of the uncompressed model, question by question, and what follows.

    Writes `<out>/<study>/{table.csv, table.md, contrasts.csv, judges.csv, kinds.csv, tokens.csv, heads.csv, cross.csv,
    corrections.csv, *.png}` and the tables of single questions under `<out>/bias`. Killed, it goes on where it stopped;
    a second run adds nothing. Another configuration has a folder of its own.

    Args:
        plan: What is measured, and how.
        corrections: Whether attention without its bias of place, and without sinks, is evaluated as a compressor.
        mean_split: Another split, whose images give the mean maps that corrected attention leaves out; None means one
            of the scenes, and no corrections for other data.
        options: What every study is told.
    """
    options.without_storage()
    from analysis.bias.report import report
    from foveate.bias.measure import Measurement, measure
    from foveate.evaluation.ranks import rank
    from foveate.studies.corrections import evaluate_corrections, split_of_means
    from foveate.studies.reports import report_folder

    config = options.config
    split = split_of_means(config, mean_split) if corrections else None
    out = report_folder(options.out, options.name, options.existing, Measurement.of(config, plan).identity)
    measured = measure(config, plan)
    corrected = evaluate_corrections(config, plan.keep, split) if split else []
    if rank() == 0:
        print(report(measured, out, corrected, split or ""))


if __name__ == "__main__":
    run(main)
