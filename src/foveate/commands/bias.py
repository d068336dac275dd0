"""Measures which patches [CLS], the prompt and the answer attend to, and on which the answer depends."""

from typing import Annotated

import tyro

from foveate.bias.plan import BiasPlan
from foveate.evaluation.ranks import rank
from foveate.options import Flat, Options


def main(
    plan: Annotated[BiasPlan, tyro.conf.arg(name="")] = BiasPlan(),
    corrections: bool = True,
    mean_split: str | None = None,
    options: Flat = Options("measure_bias", limit=504, batch_size=48),
) -> None:
    """Measures every signal of the uncompressed model for each question, and compares the signals.

    Writes `<out>/<study>/{table.csv, table.md, contrasts.csv, judges.csv, kinds.csv, tokens.csv, heads.csv, cross.csv,
    corrections.csv, *.png}` and the tables of single questions under `<out>/bias`. The same command resumes a run that
    was stopped. Another configuration has a folder of its own.

    Args:
        plan: The plan of the measurement.
        corrections: Whether attention without position bias, and without sinks, is evaluated as a compressor.
        mean_split: Split whose images give the mean maps that are subtracted from attention; it must not be the
            measured one. Default is another split of scenes; other data has no default and no corrections.
        options: Options of all experiments.
    """
    options.without_storage()
    from foveate.analysis.bias.report import report
    from foveate.bias.measure import Measurement, measure
    from foveate.evaluation.announcement import announce
    from foveate.studies.corrections import evaluate_corrections, split_of_means
    from foveate.studies.reports import report_folder

    config = options.config
    split = split_of_means(config, mean_split) if corrections else None
    measurement = Measurement.of(config, plan)
    out = report_folder(options.out, options.name, options.existing, measurement.identity)
    if not measurement.folder.complete:
        announce(measurement.config, "all signals of the uncompressed model")
    measured = measure(config, plan)
    corrected = evaluate_corrections(config, plan.keep, split) if split else []
    if rank() == 0:
        print(report(measured, out, corrected, split or ""))
