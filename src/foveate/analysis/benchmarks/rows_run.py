"""Runs of the methods, budgets and data sets of published numbers."""

from collections.abc import Sequence
from dataclasses import replace

from foveate.analysis.benchmarks.rows import Wanted, all_tokens
from foveate.analysis.benchmarks.rows_report import Answered
from foveate.core.errors import BudgetError, LayerError, UnsupportedModel, UnsupportedNeed
from foveate.data.names import parsed
from foveate.evaluation import EvalConfig, evaluate
from foveate.evaluation.announcement import Announced
from foveate.evaluation.run import data_of
from foveate.methods.fitting import for_model
from foveate.models.loading.load import LoadedModel


def run_rows(
    found: Wanted, configs: Sequence[EvalConfig], loaded: LoadedModel
) -> tuple[list[Answered], dict[str, str]]:
    """Answers every data set with every method and budget of published numbers.

    Budgets are those of the recipes, as the authors count them. A count stays one where the model has as many tokens
    per image as the paper's, and is else a share of them.

    Args:
        found: The published numbers.
        configs: The evaluation of each data set.
        loaded: The model.

    Returns:
        The runs, and the reasons why methods could not run on this model, by method and budget.

    Raises:
        UnsupportedModel: No method could run.
    """
    runs, unable = [], dict[str, str]()
    for config in configs:
        data = parsed(config.data)[0]
        cells = list(dict.fromkeys(row.cell for row in found.rows if row.data == data))
        announced = Announced(config, len(cells))
        for done, (method, tokens, settings) in enumerate(cells, 1):
            keep, rescaled = budget_on(loaded, found.model, tokens)
            try:
                compressor = for_model(method, keep, dict(settings), loaded.adapter)
                loaded.adapter.check(compressor.needs, compressor.cuts)
                records = evaluate(replace(config, compressor=compressor), shared=True)
            except (BudgetError, UnsupportedNeed, LayerError) as error:
                name = ", ".join([method, *(f"{option}={value}" for option, value in settings)])
                unable[name if tokens is None else f"{name} at {tokens:g}"] = str(error)
                continue
            samples, _ = data_of(config)
            model_type, cell = loaded.family, (method, tokens, settings)
            runs.append(Answered(cell, config, records, samples, model_type, rescaled))
            announced.ended(done)
    if not runs:
        reasons = "; ".join(f"{name}: {why}" for name, why in unable.items())
        raise UnsupportedModel(f"none of the methods of paper {found.paper!r} can run on this model: {reasons}")
    return runs, unable


def budget_on(loaded: LoadedModel, model: str, tokens: int | float | None) -> tuple[int | float | None, str]:
    """Returns a published budget for a model, and the reason why the published model is another one, if it surely is.

    Args:
        loaded: The model.
        model: The model, as the paper names it.
        tokens: The budget: a count, a share, or None.
    """
    theirs, ours, fixed = all_tokens(model), loaded.adapter.tower.grid.patches, loaded.adapter.fixed_grid
    other = fixed and theirs not in (None, ours)
    why = f"this model has {ours} tokens per image where theirs has {theirs}" if other else ""
    if not isinstance(tokens, int) or theirs is None or (fixed and not other):
        return tokens, why
    return min(tokens / theirs, 1.0), f"{why}, so budgets are shares of them" if why else ""
