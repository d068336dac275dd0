"""The part of an evaluation that is needed only if a question has no record yet."""

import signal
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

import pyarrow as pa
import pytorch_lightning as lightning
from lightning_fabric.plugins.environments.lightning import LightningEnvironment
from pytorch_lightning.callbacks import LambdaCallback

from foveate.core.errors import DataError, interrupted
from foveate.core.progress import bar
from foveate.core.quiet import quiet
from foveate.data.sample import VQASample, media_of
from foveate.evaluation.agreement import check_evaluated
from foveate.evaluation.config import EvalConfig, checkpoint_identity, code_hash, run_id
from foveate.evaluation.datamodule import QuestionsInBatches
from foveate.evaluation.encodings import Encodings
from foveate.evaluation.leaders import leaders_of
from foveate.evaluation.loggers import logged
from foveate.evaluation.module import Answering
from foveate.evaluation.prompts import RECORD_IT, failure_of, none_left, note_unknown_words
from foveate.evaluation.records import Record, RecordFolder
from foveate.evaluation.run import refuse_bad
from foveate.evaluation.writer import Enough, RecordWriter
from foveate.models.loading.load import LoadedModel


@dataclass(frozen=True)
class Evaluation:
    """A configuration with what it names, opened.

    Attributes:
        config: The configuration.
        loaded: Its model.
        samples: Its questions.
        questions: Hash of the questions and images.
        folder: Its records.
        order: Seed by which the images are shuffled; None keeps their order.
    """

    config: EvalConfig
    loaded: LoadedModel
    samples: tuple[VQASample, ...]
    questions: str
    folder: RecordFolder
    order: int | None = None

    def answer(self, left: Collection[str], share: int, shares: int, enough: Callable[[pa.Table], bool] | None) -> bool:
        """Answers the questions of a share of the batches.

        Args:
            left: IDs of the questions without a record.
            share: Number of the share.
            shares: Number of shares.
            enough: See `evaluate`.

        Returns:
            Whether all of them are answered; false if `enough` ended the evaluation.
        """
        config, folder = self.config, self.folder
        encodings = encodings_of(config, self.loaded, self.samples, self.questions)
        check_evaluated(config, self.loaded)
        note_unknown_words(self.loaded, self.samples)
        good, failed = without_failures([sample for sample in self.samples if sample.id in left], encodings)
        by_length = self.order is None and "lengths" in config.reuse
        ordered = longest_first(self.samples, encodings) if by_length else self.samples
        ids = frozenset(sample.id for sample in good)
        batches = QuestionsInBatches(ordered, config.per_batch, self.order, share, shares, ids)
        method, skip = config.compressor, config.on_error == "skip"
        leaders = leaders_of(self.samples, method.shared_by)
        module = Answering(encodings, method, config.max_new_tokens, skip, config.reuse, leaders)
        with logged(config, folder, share) as callbacks:
            if failed and share == 0:
                folder.append(failed)
            stop = (lambda: enough(folder.read())) if enough else None
            return predict(module, batches, RecordWriter(folder, stop), callbacks)


def predict(
    module: lightning.LightningModule,
    batches: QuestionsInBatches,
    writer: RecordWriter,
    callbacks: Sequence[lightning.Callback] = (),
) -> bool:
    """Runs Lightning's prediction loop, whose writer stores the results of every batch.

    Returns:
        Whether all batches were predicted; false if the writer raised `Enough`.

    Raises:
        KeyboardInterrupt: Ctrl-C was pressed.
    """
    if not batches.batches:
        return True
    questions, answered = sum(map(len, batches.batches)), 0
    with quiet(), bar(questions, "question") as shown:

        def count(trainer: object, module: object, records: object, batch: Sequence[VQASample], *_: int) -> None:
            nonlocal answered
            answered += len(batch)
            shown.update(len(batch))

        trainer = lightning.Trainer(
            accelerator="cpu",  # of the loop; the model stays on its own device, also between evaluations
            devices=1,
            plugins=[LightningEnvironment()],  # one process, whatever RANK and WORLD_SIZE say
            callbacks=[writer, *callbacks, LambdaCallback(on_predict_batch_end=count)],
            logger=False,  # see `loggers`
            enable_checkpointing=False,
            enable_model_summary=False,
            enable_progress_bar=False,  # its steps would be batches, which hold different numbers of questions
        )
        try:
            trainer.predict(module, datamodule=batches, return_predictions=False)
        except Enough:
            return False
        except SystemExit as error:
            if not interrupted(error):
                raise
            signal.signal(signal.SIGINT, signal.default_int_handler)  # Lightning ignores Ctrl-C from here on, and exits
            raise KeyboardInterrupt from None
    if answered < questions:  # a StopIteration in a step, which loops take for the end of the data
        raise RuntimeError(f"prediction ended after {answered} of {questions} questions without an error")
    return True


def encodings_of(
    config: EvalConfig,
    loaded: LoadedModel,
    samples: tuple[VQASample, ...],
    questions: str,
    advice: str = RECORD_IT,
) -> Encodings:
    """Returns the encodings of the images of a configuration's data; none if no question is about one image.

    They are those of the model that `encodings.loaded` names: for smaller images if the compressor wants such.

    Args:
        config: The evaluation.
        loaded: Its model.
        samples: Its questions.
        questions: Hash of the questions and images.
        advice: End of the error message if a question cannot be asked: what the user can do.

    Raises:
        DataError: A question cannot be asked or an image cannot be decoded, and `on_error` is "stop"; or none can.
    """
    skip = config.on_error == "skip"
    if not skip:
        refuse_bad(samples, advice)
    elif all(sample.problem for sample in samples):
        raise none_left(samples, samples[0].problem)
    loaded, _ = config.compressor.resized(loaded)
    images = media_of([sample for sample in samples if not sample.problem])
    try:
        encodings = Encodings.of(loaded, images, encodings_path(config, loaded, questions), skip)
    except DataError as error:
        if skip:
            raise none_left(samples, failure_of(samples[0], loaded, config.max_new_tokens) or str(error)) from error
        raise DataError(f"{error}; {advice}") from error
    encodings.replayed = "encodings" in config.reuse
    return encodings


def encodings_path(config: EvalConfig, loaded: LoadedModel, questions: str) -> Path:
    """Returns the path of the encodings of a configuration's images, without its checksum.

    Args:
        config: The evaluation.
        loaded: Its model, for images of the size that the compressor wants.
        questions: Hash of the questions and images.
    """
    key = {"checkpoint": checkpoint_identity(loaded), "data_hash": questions, "dtype": config.dtype}
    key |= {"resolution": repr(loaded.resolution)} if loaded.original else {}
    return config.out / "encodings" / run_id({**key, "code": code_hash()})


def longest_first(samples: Sequence[VQASample], encodings: Encodings) -> list[VQASample]:
    """Returns the images' questions sorted by the number of visual tokens, then by text length, longest first.

    A batch that does not fit into memory fails at once, and the prompts of a batch need less padding.
    """
    images = [list(group) for _, group in groupby(samples, key=lambda sample: sample.image_id)]

    def length(some: list[VQASample]) -> tuple[int, int]:
        arrangement = encodings.arrangements.get(some[0].image_id)  # none of text alone, of several, or not decoded
        return arrangement.length if arrangement else 0, max(len(sample.question) for sample in some)

    return [sample for some in sorted(images, key=length, reverse=True) for sample in some]


def without_failures(samples: Sequence[VQASample], encodings: Encodings) -> tuple[list[VQASample], list[Record]]:
    """Returns the questions that can be asked, and the records of the others."""
    good: list[VQASample] = []
    failed: list[Record] = []
    for sample in samples:
        if sample.problem or (sample.single and sample.image_id not in encodings):
            why = failure_of(sample, encodings.loaded) or "its image was not encoded"
            failed.append(Record.of_failure(sample, why))
        else:
            good.append(sample)
    return good, failed
