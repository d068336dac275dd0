"""Runs a configuration, or returns its records when it has been run."""

import signal
from functools import lru_cache

import pytorch_lightning as lightning

from foveate.data.load import data_hash, load_samples
from foveate.data.sample import VQASample
from foveate.evaluation.config import EvalConfig, code_hash, run_id
from foveate.evaluation.datamodule import QuestionsInBatches
from foveate.evaluation.encodings import Encodings
from foveate.evaluation.module import Answering, RecordWriter
from foveate.evaluation.records import RecordFolder
from foveate.models.load import LoadedModel, load

cached_load = lru_cache(maxsize=1)(load)


@lru_cache(maxsize=2)
def data_of(name: str, split: str, limit: int | None, seed: int) -> tuple[tuple[VQASample, ...], str]:
    """The questions and their hash; see `load_samples`."""
    samples = load_samples(name, split, limit, seed)
    return tuple(samples), data_hash(samples)


def evaluate(config: EvalConfig, progress: bool = False) -> RecordFolder:
    """Answers the questions of a configuration that have no record yet.

    Killed runs continue where they stopped; a second process waits for the first.

    Args:
        config: What to evaluate.
        progress: Show a bar.

    Returns:
        The complete records; the folder's name is the run id.

    Raises:
        FoveateError: The model, data, compressor or place is not usable; the message says why.
    """
    loaded: LoadedModel = cached_load(config.model, config.device, config.dtype)
    samples, questions = data_of(config.data, config.split, config.limit, config.seed)
    identity = config.identity(loaded.identity, questions)
    folder = RecordFolder(config.out / "records" / run_id(identity))
    if folder.complete:
        return folder
    with folder.lock(identity):
        done = folder.done()
        if left := [sample for sample in samples if sample.id not in done]:
            module = Answering(_encodings(config, loaded, samples, questions), config.compressor, config.max_new_tokens)
            trainer = _trainer(folder, progress)
            trainer.predict(module, datamodule=QuestionsInBatches(left, config.batch_size), return_predictions=False)
            if trainer.received_sigterm:  # which Lightning's prediction loop notes and goes on
                raise SystemExit(128 + signal.SIGTERM)
        folder.finish(sample.id for sample in samples)
    return folder


def _trainer(folder: RecordFolder, progress: bool) -> lightning.Trainer:
    return lightning.Trainer(
        accelerator="cpu",  # of the loop; the model stays where `load` has put it, between evaluations too
        devices=1,
        callbacks=[RecordWriter(folder)],
        logger=False,
        enable_checkpointing=False,
        enable_model_summary=False,
        enable_progress_bar=progress,
    )


def _encodings(config: EvalConfig, loaded: LoadedModel, samples: tuple[VQASample, ...], questions: str) -> Encodings:
    key = run_id({"checkpoint": loaded.identity, "data_hash": questions, "dtype": config.dtype, "code": code_hash()})
    images = {sample.image_id: sample.image for sample in samples}
    return Encodings.of(loaded, images, config.out / "encodings" / key)
