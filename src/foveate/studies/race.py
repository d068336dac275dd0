"""The race of a recommendation: trials answer the images of the race in one order, and leave it by `racing`'s rules."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from optuna import Trial
from optuna.trial import FrozenTrial, TrialState

from foveate.evaluation.config import EvalConfig
from foveate.evaluation.records import RecordFolder
from foveate.studies.non_inferiority import Losses, losses_of
from foveate.studies.racing import Standard, chance, is_hopeless, is_worse
from foveate.studies.stopping import PER_QUESTION, Stopping

ORDER = 0  # seed by which the images of every setting are shuffled
_ALIKE = 1.02  # costs whose ratio is at most this are the same


@dataclass(frozen=True)
class Race:
    """The images, the standard and the reference that all trials of a race share.

    Attributes:
        images: The images of the race, in the order in which they are answered.
        confirming: Number of images of the confirmation.
        standard: What a setting must keep to.
        full: Run ID of the uncompressed model.
        by_tokens: Whether a setting may leave the race because one with no more tokens loses less.
        order: Seed by which the images are shuffled.
    """

    images: tuple[str, ...]
    confirming: int
    standard: Standard
    full: str
    by_tokens: bool = True
    order: int = ORDER

    def skipped(self, trial: Trial, family: str, keep: int) -> str:
        """Returns the reason why a setting does not run, or an empty string: its method has failed with more tokens."""
        for other in trial.study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,)):
            notes = other.user_attrs
            if notes["family"] == family and other.params["keep"] > keep and notes["hopeless"]:
                return f"{family} loses too much with {other.params['keep']} tokens"
        return ""


class Running(Stopping):
    """The decision when a setting leaves the race.

    Args:
        race: The race.
        trial: The trial.
        config: Its evaluation.

    Attributes:
        reason: Why the setting left the race; empty if it finished it.
    """

    def __init__(self, race: Race, trial: Trial, config: EvalConfig) -> None:
        self.race, self.trial, self.out = race, trial, config.out
        self.reason, self.hopeless = "", False
        self._losses: Losses | None = None
        self._rows = 0

    @property
    def order(self) -> int:
        return self.race.order

    @property
    def enough(self) -> Callable[[pa.Table], bool]:
        return self.is_enough

    def is_enough(self, records: pa.Table) -> bool:
        """Returns whether the setting has answered the images of the race, or leaves it."""
        answered = answered_images(read(self.out, self.race.full), records, self.race.images)
        if not answered:
            return False
        own = _about(records, answered)
        self.hopeless, self.reason = self._leaves(own, answered)
        return bool(self.reason) or len(answered) == len(self.race.images)

    def counted(self, records: pa.Table) -> pa.Table:
        answered = answered_images(read(self.out, self.race.full), records, self.race.images)
        own = _about(records, answered)
        if not self.reason:  # also of a setting that an earlier trial or study has evaluated
            self.hopeless, self.reason = self._leaves(own, answered)
        self._losses, self._rows = losses_on(read(self.out, self.race.full), own, answered), records.num_rows
        return own

    @property
    def found(self) -> dict[str, Any]:
        if self._losses is None:
            raise RuntimeError("no records were counted")
        facts = {"stopped": self.reason, "hopeless": self.hopeless, "rows": self._rows}
        return facts | {
            "lost": self._losses.mean,
            "spread": self._losses.spread,
            "images": len(self._losses.lost),
            "chance": 0.0 if self.reason else chance(self._losses, self.race.confirming, self.race.standard),
        }

    def _leaves(self, own: pa.Table, answered: list[str]) -> tuple[bool, str]:
        """Returns whether a setting is hopeless, and why it leaves the race, or an empty string."""
        full, standard = read(self.out, self.race.full), self.race.standard
        losses = losses_on(full, own, answered)
        if is_hopeless(losses, self.race.confirming, standard):
            return True, f"it loses {100 * losses.mean:.1f} points on {len(answered)} images"
        if self.race.by_tokens and (rival := self._rival(float(np.mean(PER_QUESTION["tokens"](own))))):
            records = read(self.out, rival.user_attrs["run_id"])
            if set(answered) <= set(records["image_id"].to_pylist()):
                if is_worse(losses, losses_on(full, records, answered)):
                    return False, f"it loses more than {rival.user_attrs['label']} with as many tokens"
        return False, ""

    def _rival(self, tokens: float) -> FrozenTrial | None:
        """Returns the finished setting with at most so many tokens that loses least."""
        finished = self.trial.study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
        rivals = [one for one in finished if not one.user_attrs["stopped"]]
        rivals = [one for one in rivals if one.user_attrs["tokens"] <= _ALIKE * tokens]
        return min(rivals, key=lambda one: one.user_attrs["lost"], default=None)


@lru_cache(maxsize=64)
def read(out: Path, run: str) -> pa.Table:
    """Returns the records of a run, which no longer grow."""
    return RecordFolder(out / "records" / run).read()


def answered_images(full: pa.Table, records: pa.Table, images: tuple[str, ...]) -> list[str]:
    """Returns the images of the race of which every question is answered that the uncompressed model has answered."""
    wanted, given = (dict(zip(*_counts(table), strict=True)) for table in (full, records))
    return [image for image in images if image in wanted and given.get(image, 0) >= wanted[image]]


def losses_on(full: pa.Table, records: pa.Table, images: list[str] | tuple[str, ...]) -> Losses:
    """Returns the losses on some images, in their order; questions that either failed are left out.

    Args:
        full: Records of the uncompressed model.
        records: Records of a setting.
        images: The images.
    """
    score = dict(zip(full["sample_id"].to_pylist(), full["score"].to_pylist(), strict=True))
    place = {image: number for number, image in enumerate(images)}
    rows = [
        (place[image], score[sample], own)
        for sample, image, own in zip(
            *(records[c].to_pylist() for c in ("sample_id", "image_id", "score")), strict=True
        )
        if image in place and sample in score
    ]
    rows.sort(key=lambda row: row[0])
    return losses_of(*([row[i] for row in rows] for i in (1, 2, 0)))


def _about(records: pa.Table, images: list[str]) -> pa.Table:
    known = set(images)
    return records.filter(pa.array([image in known for image in records["image_id"].to_pylist()]))


def _counts(records: pa.Table) -> tuple[list[str], list[int]]:
    counted = records.group_by("image_id").aggregate([("sample_id", "count")])
    return counted["image_id"].to_pylist(), counted["sample_id_count"].to_pylist()
