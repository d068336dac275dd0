"""Runs a configuration, or returns its records when it has been run."""

from collections.abc import Callable, Sequence
from functools import lru_cache, partial

import pyarrow as pa

from foveate.core.errors import DataError
from foveate.data.load import data_hash, load_samples
from foveate.data.names import parsed
from foveate.data.sample import VQASample
from foveate.evaluation.asking import RECORD_IT, none_left, why_not
from foveate.evaluation.config import EvalConfig, checkpoint_identity, run_id
from foveate.evaluation.devices import team
from foveate.evaluation.names import check_loggers
from foveate.evaluation.records import RecordFolder
from foveate.models.loading.load import LoadedModel, load

cached_load = lru_cache(maxsize=1)(load)


@lru_cache(maxsize=2)
def data_of(name: str, split: str, limit: int | None, seed: int) -> tuple[tuple[VQASample, ...], str]:
    """The questions and their hash; see `load_samples`."""
    samples = load_samples(name, split, limit, seed)
    return tuple(samples), data_hash(samples)


def evaluate(
    config: EvalConfig,
    order: int | None = None,
    enough: Callable[[pa.Table], bool] | None = None,
) -> RecordFolder:
    """Answers the questions of a configuration that have no record yet.

    Killed runs continue where they stopped; a second process waits for the first. Ctrl-C once ends the evaluation after
    the batch, twice at once.

    Args:
        config: What to evaluate.
        order: Seed of the order of the images; None means as they stand in the data set.
        enough: Given all records so far after every batch, whether to leave it at that.

    Returns:
        The records, complete unless that was enough; the folder's name is the run id.

    Raises:
        FoveateError: The model, data, compressor or place is not usable; the message says why.
        KeyboardInterrupt: After the batch at which Ctrl-C was pressed.
    """
    check_loggers(config.loggers)
    loaded: LoadedModel = cached_load(config.model, config.device, config.dtype)
    samples, questions = data_of(config.data, config.split, config.limit, config.seed)
    identity = config.identity(checkpoint_identity(loaded), questions)
    folder = RecordFolder(config.out / "records" / run_id(identity))
    if folder.complete:
        return folder
    with folder.lock(identity | {"method": repr(config.compressor), "place": parsed(config.data)[1]}):
        done = folder.done()
        if done and enough and enough(folder.read()):
            return folder
        if left := frozenset(sample.id for sample in samples) - done:
            from foveate.evaluation.answering import Share  # Lightning and datasets take seconds to import
            from foveate.evaluation.loggers import told

            share = Share(config, folder.folder.name, left, order, enough is not None)
            with told(config, folder, identity) as callbacks:
                own = partial(share.answer, (lambda: enough(folder.read())) if enough else None, callbacks)
                if not team().together(share, own):
                    return folder
        folder.finish(sample.id for sample in samples)
    return folder


def refuse_bad(samples: Sequence[VQASample], advice: str = RECORD_IT) -> None:
    """Raises `DataError` if one of the questions cannot be asked."""
    bad = [sample for sample in samples if sample.problem]
    if bad:
        more = f" ({len(bad)} such questions)" if len(bad) > 1 else ""
        raise DataError(f"question {bad[0].id!r}: {bad[0].problem}{more}; {advice}")


def first_usable(config: EvalConfig, samples: Sequence[VQASample], loaded: LoadedModel | None = None) -> VQASample:
    """Returns the first question about an image that can be asked, of those that a study compares methods on.

    Args:
        config: Of the study.
        samples: The questions.
        loaded: The model; None judges the data alone.

    Raises:
        DataError: The split has no answers, no question is about an image, none can be asked, or one cannot and the
            configuration says to stop there.
    """
    if any(sample.scoring == "none" and not sample.problem for sample in samples):
        raise DataError(
            f"split {config.split!r} of {config.data!r} comes without answers, so methods cannot be compared on it; "
            "write what one of them answers for the benchmark's server: python experiments/answer_benchmark.py"
        )
    if config.on_error == "stop":
        refuse_bad(samples)
    about_images = [sample for sample in samples if sample.source is not None]
    if not about_images:
        raise DataError(
            f"none of {len(samples)} questions of {config.data!r} is about an image, so methods cannot be compared on "
            "them: ask more questions (--limit)"
        )
    for sample in about_images:
        why = why_not(sample, loaded, config.max_new_tokens)
        if not why:
            return sample
        if config.on_error == "stop":
            raise DataError(f"question {sample.id!r}: {why}; {RECORD_IT}")
    raise none_left(about_images, why_not(about_images[0], loaded, config.max_new_tokens))
