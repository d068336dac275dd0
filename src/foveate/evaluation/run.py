"""Evaluation of a configuration: `evaluate` returns its records, and computes those that are missing."""

from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from functools import lru_cache

import pyarrow as pa

from foveate.core.arrangement import Grid
from foveate.core.errors import DataError
from foveate.data.load import data_hash, load_samples
from foveate.data.names import FramesAs, parsed
from foveate.data.sample import VQASample
from foveate.evaluation import ranks
from foveate.evaluation.config import EvalConfig, checkpoint_identity, run_id
from foveate.evaluation.names import check_loggers
from foveate.evaluation.prompts import RECORD_IT, failure_of, none_left
from foveate.evaluation.records import RecordFolder
from foveate.models.loading.load import LoadedModel, load

cached_load = lru_cache(maxsize=1)(load)


def data_of(config: EvalConfig) -> tuple[tuple[VQASample, ...], str]:
    """Returns the questions of a configuration (see `load_samples`) and their hash."""
    return loaded_samples(config.data, config.split, config.limit, config.seed, config.frames, config.frames_as)


@lru_cache(maxsize=8)  # data sets of a grid, which are asked of one model after the other
def loaded_samples(
    name: str, split: str, limit: int | None, seed: int, frames: int, frames_as: FramesAs
) -> tuple[tuple[VQASample, ...], str]:
    """Returns the questions and the hash of `data_of`, for fields of a configuration."""
    samples = load_samples(name, split, limit, seed, frames)
    if frames_as == "images":
        samples = [sample.with_frames_as_images for sample in samples]
    return tuple(samples), data_hash(samples)


def grid_of(loaded: LoadedModel, samples: Iterable[VQASample]) -> Grid:
    """Returns the grid of patches that budgets refer to.

    That is the grid of an image of the tower's own or a typical size; of questions about videos, all frames of the
    first one below each other.

    Args:
        loaded: The model.
        samples: The questions.

    Raises:
        FoveateError: The model takes no videos, or none at the wanted resolution.
    """
    for sample in samples:
        if sample.video and not sample.problem:
            with suppress(DataError):  # evaluations name a video that cannot be decoded
                (video,) = loaded.video_inputs([sample.clip])[1]
                return Grid(video.views[0].rows * video.frames, video.views[0].columns)
    return loaded.adapter.tower.grid


def evaluate(
    config: EvalConfig,
    order: int | None = None,
    enough: Callable[[pa.Table], bool] | None = None,
    shared: bool = False,
) -> RecordFolder:
    """Answers the questions of a configuration that have no record yet.

    A killed evaluation resumes after its last complete batch. A second process waits for the first one.

    Args:
        config: The evaluation.
        order: Seed by which the images are shuffled; None keeps the order of the data set.
        enough: Called with all records after every batch; True ends the evaluation early.
        shared: Whether the processes that run the command together (`ranks`) each answer a share of the batches. All of
            them must make this call.

    Returns:
        The records, complete unless `enough` ended the evaluation; the folder's name is the run ID.

    Raises:
        FoveateError: The model, data, compressor or output folder cannot be used; the message says why.
    """
    check_loggers(config.loggers)
    loaded: LoadedModel = cached_load(config.model, config.device, config.dtype)
    config = config.on(loaded)
    samples, questions = data_of(config)
    identity = config.identity(checkpoint_identity(loaded), questions)
    folder = RecordFolder(config.out / "records" / run_id(identity))
    if folder.complete:
        return folder
    folder.begin(identity | {"method": repr(config.compressor), "location": parsed(config.data)[1]})
    shares = ranks.shares() if shared else [0]
    if shared:
        ranks.start()
    for share in shares:  # a process that has died leaves its share to the others
        with folder.share(share):
            done = folder.done()
            if done and enough and enough(folder.read()):
                return folder
            if left := frozenset(sample.id for sample in samples) - done:
                from foveate.evaluation.answering import Evaluation  # Lightning and datasets take seconds to import

                evaluation = Evaluation(config, loaded, samples, questions, folder, order)
                if not evaluation.answer(left, share, len(shares), enough):
                    return folder
    folder.finish(sample.id for sample in samples)
    return folder


def refuse_bad(samples: Sequence[VQASample], advice: str = RECORD_IT) -> None:
    """Raises `DataError` if a question cannot be asked."""
    bad = [sample for sample in samples if sample.problem]
    if bad:
        more = f" ({len(bad)} such questions)" if len(bad) > 1 else ""
        raise DataError(f"question {bad[0].id!r}: {bad[0].problem}{more}; {advice}")


def first_usable(config: EvalConfig, samples: Sequence[VQASample], loaded: LoadedModel | None = None) -> VQASample:
    """Returns the first question about images or a video that can be asked.

    Args:
        config: The study's configuration.
        samples: The questions on which methods are compared.
        loaded: The model; None checks the data alone.

    Raises:
        DataError: The split has no answers, no question is about an image or video, none can be asked, or one cannot
            and `on_error` is "stop".
    """
    if any(sample.scoring == "none" and not sample.problem for sample in samples):
        raise DataError(
            f"split {config.split!r} of {config.data!r} has no answers, so methods cannot be compared on it; write one "
            "method's answers for the benchmark's server: foveate answer"
        )
    if config.on_error == "stop":
        refuse_bad(samples)
    about_images = [sample for sample in samples if sample.seen]
    if not about_images:
        raise DataError(
            f"none of {len(samples)} questions of {config.data!r} is about an image or a video, so methods cannot be "
            "compared on them: ask more questions (--limit)"
        )
    for sample in about_images:
        why = failure_of(sample, loaded, config.max_new_tokens)
        if not why:
            return sample
        if config.on_error == "stop":
            raise DataError(f"question {sample.id!r}: {why}; {RECORD_IT}")
    raise none_left(about_images, failure_of(about_images[0], loaded, config.max_new_tokens))
