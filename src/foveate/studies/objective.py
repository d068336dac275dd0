"""The one objective of grids and searches: evaluate a compressor, report its mean score."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa
from optuna import Trial, TrialPruned

from foveate.core.errors import BudgetError
from foveate.evaluation import EvalConfig, evaluate
from foveate.studies.spaces import Choice


@dataclass(frozen=True)
class Objective:
    """Mean score of the choice and budget that a trial suggests; what else was measured becomes trial attributes.

    A trial whose choice cannot have its budget is pruned; its attribute `left_out` says why.

    Attributes:
        config: Everything but the compressor.
        choices: By label.
        keeps: Budgets in patches.
    """

    config: EvalConfig
    choices: Mapping[str, Choice]
    keeps: Sequence[int]

    def __call__(self, trial: Trial) -> float:
        choice = self.choices[trial.suggest_categorical("scorer", list(self.choices))]
        keep = trial.suggest_categorical("keep", list(self.keeps))
        try:
            compressor = choice.recipe(keep)
        except BudgetError as error:
            trial.set_user_attr("left_out", str(error))
            raise TrialPruned(str(error)) from error
        folder = evaluate(replace(self.config, compressor=compressor))
        records = folder.read()
        measured = {
            "run_id": folder.folder.name,
            "family": choice.family,
            "layers": choice.layers,
            "compressor": repr(compressor),
            "n": records.num_rows,
            "evidence_recall": _mean(records, "evidence_recall"),
            "tokens": _mean(records, "tokens"),
            "equivalent_tokens": float(np.mean(records["tokens_per_block"].to_pylist())),
        }
        for name, value in measured.items():
            trial.set_user_attr(name, value)
        return _mean(records, "score")


def _mean(records: pa.Table, column: str) -> float:
    return float(np.nanmean(records[column].to_numpy()))
