"""Forecast of the time and the disk space of several comparisons, from the first questions of each."""

import math
import shutil
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

import torch

from foveate.compressors import Compressor, Identity
from foveate.core.errors import BudgetError, LayerError, UnsupportedNeed
from foveate.data.sample import VQASample, first_of_media, media_of
from foveate.evaluation import ranks
from foveate.evaluation.announcement import duration
from foveate.evaluation.answering import encodings_path
from foveate.evaluation.config import EvalConfig, checkpoint_identity, run_id
from foveate.evaluation.encodings import Encodings, stored
from foveate.evaluation.module import Answering
from foveate.evaluation.prompts import failure_of
from foveate.evaluation.records import RecordFolder
from foveate.evaluation.run import data_of
from foveate.studies.comparison import planned
from foveate.studies.context import StudyContext

_MOST = 16  # questions that are measured, at most
_RUN_BYTES = 150_000  # of a run besides its records: the figure of kept patches
_RUN_S = 1.0  # of a run besides its answers: that figure, and storing the trial


class Forecast(NamedTuple):
    """The work that a comparison has left.

    Attributes:
        runs: Number of runs that are not complete.
        answers: Number of questions that they have no record of.
        seconds: Time of one process, if every run takes as long as one without compression.
        size: Bytes that will be written.
    """

    runs: int
    answers: int
    seconds: float
    size: int


class _Costs(NamedTuple):
    """Measured costs: seconds and bytes per image encoded, and per question answered."""

    image_s: float
    image_bytes: float
    question_s: float
    question_bytes: float


def forecast(config: EvalConfig, methods: Sequence[str], equivalents: Sequence[int | float]) -> Forecast:
    """Returns what a comparison has left to do, after answering a few of its questions without compression.

    Nothing is stored. Runs that fail on this model for a reason that shows only when they answer are counted, too.

    Args:
        config: The evaluation.
        methods: See `foveate.studies.comparison.compare`.
        equivalents: See there.

    Raises:
        FoveateError: The model, data, a method or a budget cannot be used; the message says why.
    """
    context = StudyContext.of(config)
    config = context.config
    questions = data_of(config)[1]
    checkpoint, records = checkpoint_identity(context.loaded), config.out / "records"
    ids = {
        run_id(replace(config, compressor=compressor).identity(checkpoint, questions))
        for compressor in _compressors(context, methods, equivalents)
    }
    left = [count for one in ids if (count := _left(RecordFolder(records / one), len(context.samples)))]
    if not left:
        return Forecast(0, 0, 0.0, 0)
    costs, answers = _measured(context), sum(left)
    encoded = stored(encodings_path(config, context.loaded, questions))
    images = 0 if encoded else len(first_of_media(context.samples))
    seconds = images * costs.image_s + answers * costs.question_s + len(left) * _RUN_S
    written = images * costs.image_bytes + 2 * answers * costs.question_bytes  # records, and their copy for the study
    return Forecast(len(left), answers, seconds, round(written) + len(left) * _RUN_BYTES)


class AnnouncedGrid:
    """Several comparisons whose time and disk space are announced when they begin, and corrected as they end.

    Args:
        configs: Their evaluations, in the order in which they are run; nothing is announced of a single one.
        methods: The methods of each; see `foveate.studies.comparison.compare`.
        equivalents: See there.
    """

    def __init__(
        self, configs: Sequence[EvalConfig], methods: Sequence[Sequence[str]], equivalents: Sequence[int | float]
    ) -> None:
        self._left: list[float] = []
        if len(configs) < 2 or ranks.rank() > 0:
            return
        # the last model that is measured is the first that is compared, and stays loaded
        pairs = [*zip(configs, methods, strict=True)]
        found = [forecast(config, names, equivalents) for config, names in reversed(pairs)][::-1]
        self._left = [one.seconds for one in found]
        self._begun, self._expected = time.monotonic(), 0.0
        if any(one.runs for one in found):
            ranks.notice(announcement(found, configs))

    def ended(self) -> None:
        """Says how long the other comparisons will take, as the past ones have; call when one has ended."""
        if not self._left:
            return
        first, *self._left = self._left
        self._expected += first
        if not self._left or not sum(self._left) or not self._expected:
            return
        others = (time.monotonic() - self._begun) / self._expected * sum(self._left)
        count = len(self._left)
        ranks.notice(
            f"{count} comparison{'s are' if count > 1 else ' is'} left, which may need about {duration(others)}"
        )


def announcement(found: Sequence[Forecast], configs: Sequence[EvalConfig]) -> str:
    """Returns one line: the size of a grid, what is left of it, and what that needs."""
    data, models = (len({getattr(config, name) for config in configs}) for name in ("data", "model"))
    runs, answers, seconds, size = (sum(values) for values in zip(*found, strict=True))
    out = configs[0].out
    return (
        f"data sets: {data}, models: {models}; {len(configs)} comparisons with {runs:,} runs of {answers:,} answers "
        f"are left. In one process they need about {duration(seconds)}, if every run takes as long as one without "
        f"compression, and {_gigabytes(size)} of the {_gigabytes(_free(out))} that are free for {out}"
    )


def _compressors(
    context: StudyContext, methods: Sequence[str], equivalents: Sequence[int | float]
) -> Iterator[Compressor]:
    choices, budgets = planned(context, methods, equivalents)
    for choice in choices:
        if choice.family == "evidence" and not context.has_evidence:
            continue
        for budget in budgets if choice.has_budget else budgets[:1]:
            try:
                compressor = choice.recipe(budget)
                context.loaded.adapter.check(compressor.needs, compressor.cuts)
            except (BudgetError, UnsupportedNeed, LayerError):
                continue
            yield compressor


def _left(folder: RecordFolder, questions: int) -> int:
    """Returns how many questions of a run have no record."""
    return max(questions - len(folder.done()), 0)


def _measured(context: StudyContext) -> _Costs:
    """Measures a batch of the first questions about one image each, after one question for warming up."""
    samples = list(islice(_askable(context), min(_MOST, context.config.per_batch)))
    with TemporaryDirectory() as folder:
        _timed(context, samples[:1], Path(folder) / "first")
        return _timed(context, samples, Path(folder) / "others")


def _timed(context: StudyContext, samples: Sequence[VQASample], folder: Path) -> _Costs:
    images = len(first_of_media(samples))
    begun = time.perf_counter()
    encodings = Encodings.of(context.loaded, media_of(samples), folder / "encodings")
    encoded = time.perf_counter()
    with torch.inference_mode():
        records = Answering(encodings, Identity(), context.config.max_new_tokens).predict_step(list(samples))
    answered = time.perf_counter()
    found = RecordFolder(folder / "records")
    found.begin({})
    found.append(records)
    return _Costs(
        (encoded - begun) / max(images, 1),
        _size(folder, "encodings*") / max(images, 1),
        (answered - encoded) / len(samples),
        _size(folder, "records") / len(samples),
    )


def _askable(context: StudyContext) -> Iterator[VQASample]:
    """Yields the first question about each image that can be asked, or one about several if there are no others."""
    longest, found = context.config.max_new_tokens, False
    for sample in first_of_media(context.samples).values():
        if not failure_of(sample, context.loaded, longest):
            found = True
            yield sample
    if not found:
        yield context.usable


def _size(folder: Path, pattern: str) -> int:
    """Returns the bytes of the files of that pattern, and of all files in the folders of that pattern."""
    found = (file for some in folder.glob(pattern) for file in (some, *some.rglob("*")))
    return sum(file.stat().st_size for file in found if file.is_file())


def _free(out: Path) -> int:
    """Returns the free bytes of the disk on which a folder lies or will lie."""
    there = next(path for path in (out.absolute(), *out.absolute().parents) if path.exists())
    return shutil.disk_usage(there).free


def _gigabytes(size: float) -> str:
    return f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{math.ceil(size / 1e6)} MB"
