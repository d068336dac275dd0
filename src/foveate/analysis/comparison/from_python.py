"""A comparison from Python: `foveate.compare` returns the table as a frame."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from foveate.analysis.comparison.data import comparison_of, comparison_table, read_comparison
from foveate.compressors import Identity
from foveate.core.budget import check_budgets
from foveate.core.errors import OptionError
from foveate.core.quiet import quiet
from foveate.data.load import answer_tokens
from foveate.evaluation import EvalConfig
from foveate.methods.registry import check_names
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
        methods: Names of methods, or your own as "./file.py:function" or "package.module:function".
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
    usual: dict[str, Any] = {"max_new_tokens": answer_tokens(data)}
    config = EvalConfig(Identity(), model, data, out=Path(out), **(usual | options))
    with quiet():
        study = comparison.compare(StudyFolder("compare", config.out, existing="beside"), config, methods, keep)
        found = comparison_of(study)
        return comparison_table(read_comparison(found, config.out), found.roles)
