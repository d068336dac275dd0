"""Runs a configuration, or returns its records when it has been run."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial

import pyarrow as pa
import pytorch_lightning as lightning
from lightning_fabric.plugins.environments.lightning import LightningEnvironment

from foveate.core.errors import OutputError
from foveate.data.load import data_hash, load_samples
from foveate.data.sample import VQASample
from foveate.evaluation.config import EvalConfig, code_hash, run_id
from foveate.evaluation.datamodule import QuestionsInBatches
from foveate.evaluation.devices import team
from foveate.evaluation.encodings import Encodings
from foveate.evaluation.loggers import check_loggers, told
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
    check_loggers(config.loggers)
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
        if left := frozenset(sample.id for sample in samples) - done:
            share = Share(config, folder.folder.name, left, order, enough is not None)
            with told(config, folder, identity) as callbacks:
                own = partial(share.answer, (lambda: enough(folder.read())) if enough else None, progress, callbacks)
                if not team().together(share, own):
                    return folder
        folder.finish(sample.id for sample in samples)
    return folder


@dataclass(frozen=True)
class Share:
    """What every process of a team does in an evaluation; a value, so that it can be sent.

    Attributes:
        config: Of the evaluation.
        run: Its id.
        left: Questions without a record.
        order: See `evaluate`.
        stops: Whether the first process may have enough before the end.
    """

    config: EvalConfig
    run: str
    left: frozenset[str]
    order: int | None
    stops: bool

    def __call__(self) -> None:
        """The share of a helper.

        Raises:
            OutputError: It would answer something else than the leader.
        """
        with RecordFolder(self.config.out / "records" / self.run).hand(team().number):
            self.answer((lambda: False) if self.stops else None)  # the first process is asked

    def answer(
        self,
        enough: Callable[[], bool] | None = None,
        progress: bool = False,
        callbacks: Sequence[lightning.Callback] = (),
    ) -> bool:
        """Answers this process's turns; false if the first process had enough before the end."""
        config = self.config
        loaded = cached_load(config.model, config.device, config.dtype)
        samples, questions = data_of(config.data, config.split, config.limit, config.seed)
        if (run := run_id(config.identity(loaded.identity, questions))) != self.run:
            raise OutputError(
                f"run {run} here, {self.run} in the first process: model, data, code and versions must be the same on "
                "all nodes"
            )
        module = Answering(encodings_of(config, loaded, samples, questions), config.compressor, config.max_new_tokens)
        us, left = team(), [sample for sample in samples if sample.id in self.left]
        batches = QuestionsInBatches(left, config.batch_size, self.order, us.number, us.size)
        asked = us.asked_by_all(enough, batches.turns_of_all) if enough else None
        writer = RecordWriter(RecordFolder(config.out / "records" / run), asked)
        us.meet()  # nobody writes before all hold what they have to hold
        return predict(module, batches, writer, progress, callbacks)


def predict(
    module: lightning.LightningModule,
    batches: QuestionsInBatches,
    writer: RecordWriter,
    progress: bool,
    callbacks: Sequence[lightning.Callback] = (),
) -> bool:
    """Hands what the module predicts to the writer, batch by batch; false if the writer had enough before the end."""
    if not batches.batches:
        return True
    trainer = lightning.Trainer(
        accelerator="cpu",  # of the loop; the model stays where `load` has put it, between evaluations too
        devices=1,
        plugins=[LightningEnvironment()],  # whatever has started this process; see `devices`
        callbacks=[writer, *callbacks],
        logger=False,  # who is told hears of the records of all processes: see `loggers`
        enable_checkpointing=False,
        enable_model_summary=False,
        enable_progress_bar=progress,
    )
    try:
        trainer.predict(module, datamodule=batches, return_predictions=False)
    except Enough:
        return False
    return True


def encodings_of(config: EvalConfig, loaded: LoadedModel, samples: tuple[VQASample, ...], questions: str) -> Encodings:
    """What the tower says about the pictures of a configuration's data."""
    key = run_id({"checkpoint": loaded.identity, "data_hash": questions, "dtype": config.dtype, "code": code_hash()})
    images = {sample.image_id: sample.image for sample in samples}
    return Encodings.of(loaded, images, config.out / "encodings" / key)
