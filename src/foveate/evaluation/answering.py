"""Answers the questions that have no record yet: what an evaluation imports only where something is left to answer."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import groupby

import pytorch_lightning as lightning
from lightning_fabric.plugins.environments.lightning import LightningEnvironment
from pytorch_lightning.callbacks import LambdaCallback

from foveate.core.errors import DataError, OutputError
from foveate.core.progress import bar
from foveate.data.sample import VQASample, images_of
from foveate.evaluation.agreement import check_evaluated
from foveate.evaluation.asking import RECORD_IT, none_left, why_not
from foveate.evaluation.config import EvalConfig, checkpoint_identity, code_hash, run_id
from foveate.evaluation.datamodule import QuestionsInBatches
from foveate.evaluation.devices import team
from foveate.evaluation.encodings import Encodings
from foveate.evaluation.interruption import interruptible
from foveate.evaluation.module import Answering, Enough, RecordWriter
from foveate.evaluation.records import Record, RecordFolder
from foveate.evaluation.reuse import answer_reuse
from foveate.evaluation.run import cached_load, data_of, refuse_bad
from foveate.models.loading.load import LoadedModel


@dataclass(frozen=True)
class Share:
    """The part that every process of a team has in an evaluation; a value, so that it can be sent.

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
        callbacks: Sequence[lightning.Callback] = (),
    ) -> bool:
        """Answers this process's turns; false if the first process had enough before the end."""
        config = self.config
        loaded = cached_load(config.model, config.device, config.dtype)
        samples, questions = data_of(config.data, config.split, config.limit, config.seed)
        if (run := run_id(config.identity(checkpoint_identity(loaded), questions))) != self.run:
            raise OutputError(
                f"run {run} here, {self.run} in the first process: model, data, code and versions must be the same on "
                "all nodes"
            )
        encodings = encodings_of(config, loaded, samples, questions)
        check_evaluated(config, loaded)
        good, failed = set_aside([sample for sample in samples if sample.id in self.left], encodings)
        said = answer_reuse(loaded, config.out) if "answers" in config.reuse and config.exact else None
        skip = config.on_error == "skip"
        module = Answering(encodings, config.compressor, config.max_new_tokens, skip, config.reuse, said)
        us, folder = team(), RecordFolder(config.out / "records" / run)
        ordered = longest_first(samples, encodings) if self.order is None and "lengths" in config.reuse else samples
        asked_now = frozenset(sample.id for sample in good)
        batches = QuestionsInBatches(ordered, config.batch_size, self.order, us.number, us.size, asked_now)
        asked = us.asked_by_all(enough, batches.turns_of_all) if enough else None
        writer = RecordWriter(folder, asked)
        us.meet()  # nobody writes before all hold what they have to hold
        if failed and us.number == 0:
            folder.append(failed)
        return predict(module, batches, writer, callbacks)


def predict(
    module: lightning.LightningModule,
    batches: QuestionsInBatches,
    writer: RecordWriter,
    callbacks: Sequence[lightning.Callback] = (),
) -> bool:
    """Hands what the module predicts to the writer, batch by batch; false if the writer had enough before the end.

    Raises:
        KeyboardInterrupt: After the batch at which Ctrl-C was pressed.
    """
    if not batches.batches:
        return True
    questions, answered = sum(map(len, batches.batches)), 0
    with bar(questions, "question") as shown, interruptible() as leave:

        def saved(trainer: object, module: object, records: object, batch: Sequence[VQASample], *_: int) -> None:
            nonlocal answered
            answered += len(batch)
            shown.update(len(batch))
            leave()

        trainer = lightning.Trainer(
            accelerator="cpu",  # of the loop; the model stays where `load` has put it, between evaluations too
            devices=1,
            plugins=[LightningEnvironment()],  # whatever has started this process; see `devices`
            callbacks=[writer, *callbacks, LambdaCallback(on_predict_batch_end=saved)],
            logger=False,  # who is told hears of the records of all processes: see `loggers`
            enable_checkpointing=False,
            enable_model_summary=False,
            enable_progress_bar=False,  # of batches, which hold more or fewer questions
        )
        try:
            trainer.predict(module, datamodule=batches, return_predictions=False)
        except Enough:
            return False
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
    """Returns the encodings of the images of a configuration's data; there may be none of text-only questions.

    Args:
        config: Of the evaluation.
        loaded: Its model.
        samples: Its questions.
        questions: Their hash.
        advice: What to do where a question cannot be asked.

    Raises:
        DataError: A question cannot be asked or an image not decoded, and the configuration says to stop there; or
            none can.
    """
    skip = config.on_error == "skip"
    if not skip:
        refuse_bad(samples, advice)
    elif all(sample.problem for sample in samples):
        raise none_left(samples, samples[0].problem)
    key = run_id(
        {"checkpoint": checkpoint_identity(loaded), "data_hash": questions, "dtype": config.dtype, "code": code_hash()}
    )
    images = images_of([sample for sample in samples if not sample.problem])
    try:
        encodings = Encodings.of(loaded, images, config.out / "encodings" / key, skip)
    except DataError as error:
        if skip:
            raise none_left(samples, why_not(samples[0], loaded, config.max_new_tokens) or str(error)) from error
        raise DataError(f"{error}; {advice}") from error
    encodings.replayed = "encodings" in config.reuse
    return encodings


def longest_first(samples: Sequence[VQASample], encodings: Encodings) -> list[VQASample]:
    """Returns questions with longer prompts before others: of equally many visual tokens, those with longer texts.

    What does not fit into memory fails at once, and prompts of a batch are padded less.
    """
    images = [list(group) for _, group in groupby(samples, key=lambda sample: sample.image_id)]

    def length(some: list[VQASample]) -> tuple[int, int]:
        seen = encodings.arrangements.get(some[0].image_id)  # none if text-only, or if it cannot be decoded
        return seen.length if seen else 0, max(len(sample.question) for sample in some)

    return [sample for some in sorted(images, key=length, reverse=True) for sample in some]


def set_aside(samples: Sequence[VQASample], encodings: Encodings) -> tuple[list[VQASample], list[Record]]:
    """The questions that can be asked, and the records of the others."""
    good: list[VQASample] = []
    failed: list[Record] = []
    for sample in samples:
        if sample.problem or (sample.source is not None and sample.image_id not in encodings):
            why = why_not(sample, encodings.loaded) or "its image was not encoded"
            failed.append(Record.of_failure(sample, why))
        else:
            good.append(sample)
    return good, failed
