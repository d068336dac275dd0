"""The model, the questions and the identity that all trials of a study share."""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

from foveate.core.arrangement import Grid
from foveate.core.budget import resolve_keep
from foveate.core.errors import BudgetError
from foveate.data.sample import VQASample
from foveate.evaluation.config import EvalConfig, checkpoint_identity
from foveate.evaluation.run import cached_load, data_of, first_usable, grid_of
from foveate.models.backbone.adapter import Tower
from foveate.models.loading.load import LoadedModel


@dataclass(frozen=True)
class StudyContext:
    """A study's configuration with its model and questions loaded.

    Attributes:
        config: The evaluation; each trial replaces its compressor.
        loaded: The model.
        samples: The questions.
        usable: The first question about an image that can be asked.
        identity: Everything besides the compressor that can change an answer, as JSON.
        facts: Attributes of the study that reports read.
    """

    config: EvalConfig
    loaded: LoadedModel
    samples: tuple[VQASample, ...]
    usable: VQASample
    identity: dict[str, Any]
    facts: dict[str, Any]

    @classmethod
    def of(cls, config: EvalConfig) -> "StudyContext":
        """Loads the model and the questions of a configuration.

        Raises:
            FoveateError: The model or the data cannot be used; the message says why.
        """
        loaded = cached_load(config.model, config.device, config.dtype)
        config = config.on(loaded)
        samples, questions = data_of(config)
        usable = first_usable(config, samples, loaded)
        identity = config.identity(checkpoint_identity(loaded), questions)
        del identity["compressor"]
        size = {"limit": config.limit, "seed": config.seed}  # named by the error if another study has this name
        tower, grid = loaded.adapter.tower, grid_of(loaded, samples)
        facts = {
            "model": config.model,
            "patches": grid.patches,
            "grid": [grid.rows, grid.columns],
            "depth": tower.depth,
            "feature_layer": tower.feature_layer,
            "decoder_depth": loaded.adapter.decoder.depth,
            "samples": len(samples),
        }
        return cls(config, loaded, samples, usable, identity | size, facts)

    @property
    def tower(self) -> Tower:
        """The model's vision tower; its grid is that of a typical image, or of the frames of the first video."""
        return replace(self.loaded.adapter.tower, grid=Grid(*self.facts["grid"]))

    @property
    def has_evidence(self) -> bool:
        """True if the data says for any question where in the image its answer is."""
        return any(sample.things.known for sample in self.samples)

    def counts(self, budgets: Iterable[int | float]) -> list[int]:
        """Returns budgets as counts of patches, largest first.

        Raises:
            BudgetError: There are none, or one is out of range.
        """
        patches = self.tower.grid.patches
        counts = sorted({resolve_keep(budget, patches) for budget in budgets}, reverse=True)
        if not counts:
            raise BudgetError(f"no budget is given: expected counts from 1 to {patches}, or fractions of the patches")
        return counts
