"""Comparisons and evaluations from Python, as frames: `foveate.compare` and `foveate.evaluate`."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd

from foveate.analysis.comparison.data import comparison_of, comparison_table, read_comparison
from foveate.compressors import Identity
from foveate.core.budget import check_budgets
from foveate.core.errors import OptionError, shown
from foveate.core.quiet import quiet
from foveate.data.load import answer_tokens
from foveate.evaluation import EvalConfig
from foveate.evaluation.run import cached_load, data_of, grid_of
from foveate.evaluation.run import evaluate as evaluated
from foveate.methods.fitting import at_budget
from foveate.methods.registry import check_names, is_recipe_file
from foveate.studies import comparison
from foveate.studies.study_folder import StudyFolder


def compare(
    methods: Sequence[str],
    data: str = "scenes",
    model: str = "reference",
    keep: Sequence[int | float] = (0.25,),
    out: str | Path = "runs",
    **options: Any,  # noqa: ANN401 (fields of EvalConfig)
) -> pd.DataFrame:
    """Compares methods and all controls at the same number of equivalent tokens.

    What has been answered already is read from `out`. The study is `<out>/compare`, or a folder beside it if that one
    has another configuration.

    Args:
        methods: Names of methods, your own as "./file.py:function" or "package.module:function", or recipe files, whose
            budgets are added.
        data: Name of a data set, or `<name>:<location>`; see `load_samples`.
        model: "reference", a checkpoint folder or a hub ID.
        keep: Budgets in equivalent tokens: counts, or fractions of an image's patches.
        out: Folder of all results.
        options: Further fields of `EvalConfig`, such as `split`, `limit`, `device`, `dtype` and `batch_size`; the
            longest answer is the data set's own unless `max_new_tokens` is given.

    Returns:
        One row per method and budget; the columns are those of `table.csv` of `foveate compare`.

    Raises:
        OptionError: `methods` or `keep` is a single value.
        FoveateError: The model, data, a method or a budget cannot be used; the message says why.
    """
    if isinstance(methods, str):
        raise OptionError(f"methods={methods!r}: expected a list of names, such as [{methods!r}]")
    if isinstance(keep, str | int | float):
        raise OptionError(f"keep={keep!r}: expected a list of budgets, such as [{keep!r}]")
    check_names(methods)
    check_budgets(keep)
    config = _config(model, data, out, options)
    with quiet():
        study = comparison.compare(StudyFolder("compare", config.out, existing="beside"), config, methods, keep)
        found = comparison_of(study)
        return comparison_table(read_comparison(found, config.out), found.roles)


def evaluate(
    method: str,
    data: str = "scenes",
    model: str = "reference",
    keep: int | float | None = None,
    out: str | Path = "runs",
    **options: Any,  # noqa: ANN401 (fields of EvalConfig)
) -> pd.DataFrame:
    """Answers questions with a model whose images one method compresses.

    What has been answered already is read from `out`. `foveate.evaluation.evaluate` takes a compressor instead of a
    name, and returns the folder of the records.

    Args:
        method: Name of a method, your own as "./file.py:function" or "package.module:function", or a recipe file;
            "full" compresses nothing.
        data: Name of a data set, `<name>:<location>`, or the path of a table; see `load_samples`.
        model: "reference", a checkpoint folder or a hub ID.
        keep: Budget in equivalent tokens: a count, or a fraction of an image's patches. None means a quarter of them,
            and for a recipe file its own budget.
        out: Folder of all results.
        options: Further fields of `EvalConfig`, as in `compare`.

    Returns:
        One row per question, sorted by `sample_id`; `foveate.evaluation.records.Record` documents the columns. With
        `on_error="skip"` a question that could not be answered has its reason in `error`, and no score.

    Raises:
        OptionError: `method` is no name, or `keep` is several values.
        FoveateError: The model, data, the method or the budget cannot be used; the message says why.
    """
    if not isinstance(method, str):
        raise OptionError(
            f"method={shown(method)}: expected the name of one method, such as 'vtc_cls'; a compressor goes to "
            "foveate.evaluation.evaluate(EvalConfig(compressor, ...)), several methods to foveate.compare"
        )
    if not isinstance(keep, int | float | None):
        raise OptionError(f"keep={shown(keep)}: expected one budget, such as 0.25; foveate.compare takes several")
    check_names([method])
    if keep is None and not is_recipe_file(method):
        keep = 0.25
    check_budgets([] if keep is None else [keep], needed=False)
    config = _config(model, data, out, options)
    with quiet():
        loaded = cached_load(config.model, config.device, config.dtype)
        compressor = at_budget(method, keep, loaded.adapter, grid_of(loaded, data_of(config)[0]).patches)
        return evaluated(replace(config, compressor=compressor)).read_all().to_pandas()


def _config(model: str, data: str, out: str | Path, options: Mapping[str, Any]) -> EvalConfig:
    usual: dict[str, Any] = {"max_new_tokens": answer_tokens(data)}
    return EvalConfig(Identity(), model, data, out=Path(out), **{**usual, **options})
