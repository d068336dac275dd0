"""What do prompts look at, what do answers look at, what did [CLS] know, and what does the answer hang on?"""

from typing import Annotated

import tyro

from foveate.cli import Flat, Options, run
from foveate.evaluation.bias_plan import BiasPlan


def main(
    plan: Annotated[BiasPlan, tyro.conf.arg(name="")] = BiasPlan(),
    options: Flat = Options("measure_bias", limit=504, batch_size=48),
) -> None:
    """Measures every signal of the uncompressed model, question by question, and what follows.

    Writes `<out>/<study>/{table.csv, table.md, contrasts.csv, *.png}` and the tables of single questions under
    `<out>/bias`. Killed, it goes on where it stopped; a second run adds nothing.

    Args:
        plan: What is measured, and how.
        options: What every study is told.
    """
    options.alone()
    from analysis.bias_report import report
    from foveate.evaluation.bias import measure

    folder = measure(options.config, plan)
    print(report(folder, options.out / options.name))


if __name__ == "__main__":
    run(main)
