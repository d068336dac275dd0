"""Runs a configuration, or returns its records when it has been run."""

import signal
from collections.abc import Callable
from functools import lru_cache

import pyarrow as pa
import pytorch_lightning as lightning
from pytorch_lightning.callbacks import TQDMProgressBar

from foveate.data.load import data_hash, load_samples
from foveate.data.sample import VQASample
from foveate.evaluation.config import EvalConfig, code_hash, run_id
from foveate.evaluation.datamodule import QuestionsInBatches
from foveate.evaluation.encodings import Encodings
from foveate.evaluation.module import Answering, Enough, RecordWriter
from foveate.evaluation.records import RecordFolder
from foveate.models.load import LoadedModel, load

cached_load = lru_cache(maxsize=1)(load)


@lru_cache(maxsize=2)
def data_of(name: str, split: str, limit: int | None, seed: int) -> tuple[tuple[VQASample, ...], str]:
    """The questions and their hash; see `load_samples`."""
    samples = load_samples(name, split, limit, seed)
    return tuple(samples), data_hash(samples)


def evaluate(
    config: EvalConfig,
    progress: bool = False,
    order: int | None = None,
    enough: Callable[[pa.Table], bool] | None = None,
) -> RecordFolder:
    """Answers the questions of a configuration that have no record yet.

    Killed runs continue where they stopped; a second process waits for the first.

    Args:
        config: What to evaluate.
        progress: Show a bar.
        order: Seed of the order of the pictures; None means as they stand in the data set.
        enough: Given all records so far after every batch, whether to leave it at that.

    Returns:
        The records, complete unless that was enough; the folder's name is the run id.

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
        if done and enough and enough(folder.read()):
            return folder
        if left := [sample for sample in samples if sample.id not in done]:
            module = Answering(
                encodings_of(config, loaded, samples, questions), config.compressor, config.max_new_tokens
            )
            batches = QuestionsInBatches(left, config.batch_size, order)
            writer = RecordWriter(folder, (lambda: enough(folder.read())) if enough else None)
            if not predict(module, batches, writer, progress):
                return folder
        folder.finish(sample.id for sample in samples)
    return folder


def predict(
    module: lightning.LightningModule, batches: QuestionsInBatches, writer: RecordWriter, progress: bool
) -> bool:
    """Hands what the module predicts to the writer, batch by batch; false if the writer had enough before the end."""
    trainer = _trainer(writer, progress)
    try:
        trainer.predict(module, datamodule=batches, return_predictions=False)
    except Enough:
        return False
    if trainer.received_sigterm:  # which Lightning's prediction loop notes and goes on
        raise SystemExit(128 + signal.SIGTERM)
    return True


def _trainer(writer: RecordWriter, progress: bool) -> lightning.Trainer:
    return lightning.Trainer(
        accelerator="cpu",  # of the loop; the model stays where `load` has put it, between evaluations too
        devices=1,
        callbacks=[writer, *([TQDMProgressBar()] if progress else [])],  # Rich's would hide bars within a batch
        logger=False,
        enable_checkpointing=False,
        enable_model_summary=False,
        enable_progress_bar=progress,
    )


def encodings_of(config: EvalConfig, loaded: LoadedModel, samples: tuple[VQASample, ...], questions: str) -> Encodings:
    """What the tower says about the pictures of a configuration's data."""
    key = run_id({"checkpoint": loaded.identity, "data_hash": questions, "dtype": config.dtype, "code": code_hash()})
    images = {sample.image_id: sample.image for sample in samples}
    return Encodings.of(loaded, images, config.out / "encodings" / key)
