"""Measures how accuracy falls with the number of kept patches, for selected scorers."""

from functools import partial

from foveate.commands.ablate import ablate_all
from foveate.core.budget import check_budgets
from foveate.options import Flat, Options


def main(
    scorers: tuple[str, ...] = ("cls[-2]", "cls[-1]", "cls[all]"),
    keep: tuple[int | float, ...] = (0.75, 0.5, 0.35, 0.25, 0.18, 0.125, 0.09, 0.06, 0.04, 0.03, 0.02, 0.01),
    options: Flat = Options("ablate_budgets", scenes=1050),
) -> None:
    """Evaluates selected scorers and the controls at many budgets; writes the same files as `ablate_layers.py`.

    Without --limit it asks 1,050 questions about scenes, or all questions of a benchmark.

    Args:
        scorers: "cls[2]" is one layer, "cls[2:]" the sum from layer 2 to the one that writes the features, "cls[all]"
            the sum of all layers.
        keep: Budgets: patches to keep, or fractions of an image's patches.
        options: Options of all experiments.
    """
    check_budgets(keep)
    from foveate.studies.ablation import named_choices

    ablate_all(partial(named_choices, names=scorers), keep, options)
