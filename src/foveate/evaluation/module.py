"""The prediction loop: compress, answer, score."""

import math
import signal
from collections.abc import Callable, Collection, Sequence
from itertools import groupby
from typing import Any

import pytorch_lightning as lightning
import torch
from pytorch_lightning.callbacks import BasePredictionWriter
from torch import Tensor

from foveate.compressors import Compressor
from foveate.compressors.base import checked_cuts, compressed_by
from foveate.core.compression import Compressed
from foveate.core.errors import DataError
from foveate.data.sample import VQASample
from foveate.evaluation.asking import RECORD_IT, asked_text, prompt_of, reference_of
from foveate.evaluation.encodings import EncodedImages, Encodings
from foveate.evaluation.evidence import evidence_of
from foveate.evaluation.names import REUSED, Reuse
from foveate.evaluation.records import Record, RunFolder
from foveate.evaluation.reuse import AnswerReuse
from foveate.metrics.answers import score_of
from foveate.metrics.evidence import evidence_recall, things_kept
from foveate.models.backbone.grouping import group_by_shape, in_groups
from foveate.models.loading.text_only import answer_text
from foveate.models.runtime.generation import Conversation, answer, answer_each, likelihood
from foveate.models.runtime.greedy import Answers
from foveate.models.runtime.images import Texts
from foveate.models.runtime.pruning import Pruning


class Answering(lightning.LightningModule):
    """Answers batches of questions whose images follow each other; text-only ones may stand among them.

    Args:
        encodings: Of the data set.
        compressor: The method.
        max_new_tokens: Longest answer.
        skip: Whether a question that does not fit into the model's context is recorded as failed, and not an error.
        reuse: See `evaluation.reuse`.
        said: Where "answers" are shared, what the model has said so far.
    """

    def __init__(
        self,
        encodings: Encodings,
        compressor: Compressor,
        max_new_tokens: int,
        skip: bool = False,
        reuse: Collection[Reuse] = REUSED,
        said: AnswerReuse | None = None,
    ) -> None:
        super().__init__()
        self.encodings, self.compressor, self.max_new_tokens = encodings, compressor, max_new_tokens
        self.loaded, self.skip, self.reuse, self.said = encodings.loaded, skip, reuse, said

    def predict_step(self, batch: list[VQASample]) -> list[Record]:
        asked = [self._prompt(sample) for sample in batch]
        prompts, wrong = [prompt for prompt, _ in asked], [why for _, why in asked]
        for sample, why in zip(batch, wrong, strict=True):
            if why and not self.skip:
                raise DataError(f"question {sample.id!r}: {why}; {RECORD_IT}")
        records = [Record.of_failure(sample, why) for sample, why in zip(batch, wrong, strict=True) if why]
        rows = [row for row, why in enumerate(wrong) if not why]
        shown, plain = ([i for i in rows if (batch[i].source is not None) == image] for image in (True, False))
        for some, answered in ((shown, self._answered), (plain, self._answered_text)):
            if some:
                records += answered([batch[i] for i in some], [prompts[i] for i in some])
        return records

    def _prompt(self, sample: VQASample) -> tuple[list[int], str]:
        """Returns the prompt of a question, and why it cannot be asked; empty if it can."""
        image = None if sample.source is None else self.encodings.arrangements[sample.image_id]
        try:
            return prompt_of(self.loaded, sample, image, self.max_new_tokens), ""
        except DataError as error:
            return [], str(error)

    def _answered(self, batch: list[VQASample], prompts: list[list[int]]) -> list[Record]:
        share = evidence_of(batch, [self.encodings.arrangements[sample.image_id] for sample in batch], self.loaded)
        groups = self._sharing_an_image(batch)
        first = [group[0] for group in groups]
        references = [reference_of(self.loaded, sample) for sample in batch]
        compressed = self._compressed(batch, prompts, share, first)
        if self.compressor.cuts:
            answers, pruning = self._asked_inside(prompts, compressed, references)
            kept, blocks = pruning.decisions[-1].compression.kept, torch.stack(pruning.per_block, 1)
        else:
            answers = self._asked(groups, prompts, compressed, references)
            owner = [row for row, group in enumerate(groups) for _ in group]
            kept = [compressed.decision.compression.kept[row] for row in owner]
            blocks = compressed.visible[owner][:, None].expand(-1, self.loaded.adapter.decoder.depth)
        llava = self.loaded.adapter
        texts_only = [len(prompt) - prompt.count(llava.image_token) for prompt in prompts]
        return self._records(batch, answers, kept, blocks, texts_only, share)

    def _answered_text(self, batch: list[VQASample], prompts: list[list[int]]) -> list[Record]:
        """Answers text-only questions as the stock model does, whatever the compressor."""
        references = [reference_of(self.loaded, sample) for sample in batch]
        answers = answer_text(self.loaded, prompts, self.max_new_tokens, references)
        nothing = [torch.zeros(0, dtype=torch.long) for _ in batch]
        blocks = torch.zeros(len(batch), self.loaded.adapter.decoder.depth, dtype=torch.long)
        share = torch.zeros(len(batch), 0, 0)
        return self._records(batch, answers, nothing, blocks, [len(prompt) for prompt in prompts], share)

    def _asked_inside(
        self, prompts: Sequence[list[int]], compressed: Compressed, references: Sequence[Sequence[int]]
    ) -> tuple[Answers, Pruning]:
        """With cuts inside the language model, for which every question has its own."""
        adapter, method, limit = self.loaded.adapter, self.compressor, self.max_new_tokens
        cuts = checked_cuts(method)

        def ask(drafts: Sequence[Sequence[int]]) -> tuple[Answers, Pruning]:
            return answer_each(adapter, prompts, compressed, method.repack, cuts, limit, drafts)

        answers, pruning = ask(references)
        if "drafts" not in self.reuse:
            answers = Answers(ask(())[0].tokens, answers.log_probability)
        return answers, pruning

    def _asked(
        self,
        groups: Sequence[Sequence[int]],
        prompts: Sequence[list[int]],
        compressed: Compressed,
        references: Sequence[Sequence[int]],
    ) -> Answers:
        """What is asked about an image, after keys and values of it that are computed once."""
        adapter, repack, limit = self.loaded.adapter, self.compressor.repack, self.max_new_tokens
        turns = [Conversation.from_prompts([prompts[i] for i in group], adapter.image_token) for group in groups]
        drafts = [[references[i] for i in group] for group in groups]

        def ask(rows: Sequence[int]) -> Answers:
            some, given = [turns[i] for i in rows], [draft for i in rows for draft in drafts[i]]
            of = (adapter, some, compressed.chosen(rows), repack, limit)
            texts = "texts" in self.reuse
            if "drafts" in self.reuse:
                return answer(*of, given, share=texts)
            return Answers(answer(*of, share=texts).tokens, likelihood(*of[:4], given, share=texts))

        if self.said is None:
            return ask(range(len(groups)))
        return self.said.answers(compressed, turns, [(draft, repack, limit) for draft in drafts], ask)

    def _compressed(
        self, batch: Sequence[VQASample], prompts: Sequence[list[int]], share: Tensor, first: Sequence[int]
    ) -> Compressed:
        """What the language model is given of the images of these questions of a batch."""
        samples, asks = [batch[i] for i in first], [prompts[i] for i in first]
        groups, images = asked_alike(self.encodings, samples, asks, share[first])
        extra_needs = self.loaded.adapter.extra_needs
        return in_groups(lambda some: compressed_by(self.compressor, some, extra_needs), groups, images)

    def _sharing_an_image(self, batch: Sequence[VQASample]) -> list[list[int]]:
        """Positions in the batch that share a compressed image: all questions about it, unless each needs its own."""
        if self.compressor.per_question or "images" not in self.reuse:
            return [[i] for i in range(len(batch))]
        return [list(group) for _, group in groupby(range(len(batch)), key=lambda i: batch[i].image_id)]

    def _records(
        self,
        batch: list[VQASample],
        answers: Answers,
        kept: list[Tensor],
        blocks: Tensor,
        text_tokens: list[int],
        share: Tensor,
    ) -> list[Record]:
        stays = torch.zeros(len(batch), share.shape[2], dtype=torch.bool)
        for row, patches in zip(stays, kept, strict=True):
            row[patches.cpu()] = True
        said, likely = self.loaded.text(answers.tokens), answers.log_probability.tolist()
        recall, covered = evidence_recall(stays, share).tolist(), things_kept(stays, share).tolist()
        return [
            Record(
                sample_id=sample.id,
                image_id=sample.image_id,
                kind=sample.kind,
                question=asked_text(self.loaded, sample),
                reference=" | ".join(sample.references),
                prediction=said[i],
                score=score_of(said[i], sample),
                kept=kept[i].tolist(),
                tokens=int(blocks[i, 0]),
                tokens_per_block=blocks[i].tolist(),
                text_tokens=text_tokens[i],
                evidence_recall=recall[i],
                things_kept=covered[i],
                log_probability=round(likely[i], 5) if sample.references else math.nan,  # the rest depends on the batch
                has_image=sample.source is not None,
            )
            for i, sample in enumerate(batch)
        ]


def asked(
    encodings: Encodings, samples: Sequence[VQASample], prompts: Sequence[list[int]], share: Tensor
) -> EncodedImages:
    """The images of these questions, all of one arrangement, with what is asked about them: one row per question.

    Args:
        encodings: Of the data set.
        samples: The questions.
        prompts: Their full prompts.
        share: See `evidence_of`.
    """
    loaded = encodings.loaded
    questions = [loaded.adapter.question(prompt, loaded.text_side.tail) for prompt in prompts]
    texts = Texts(prompts, questions, [sample.question for sample in samples])
    return encodings.batch([sample.image_id for sample in samples], share, texts)


def asked_alike(
    encodings: Encodings, samples: Sequence[VQASample], prompts: Sequence[list[int]], share: Tensor
) -> tuple[list[list[int]], Callable[[list[int]], EncodedImages]]:
    """Rows whose images have the same arrangement, and the images of such rows; otherwise as `asked`."""
    arranged = [encodings.arrangements[sample.image_id] for sample in samples]

    def images(rows: list[int]) -> EncodedImages:
        needed = share[rows][..., : arranged[rows[0]].patches]
        return asked(encodings, [samples[i] for i in rows], [prompts[i] for i in rows], needed)

    return group_by_shape(arranged), images


class Enough(Exception):
    """The records so far say what was to be known."""


class RecordWriter(BasePredictionWriter):
    """Puts every batch on disk as soon as it is answered.

    Args:
        folder: Where.
        enough: Asked after every batch whether to stop; None never is. Then `Enough` is raised, which is how
            Lightning's prediction loop can be left.
    """

    def __init__(self, folder: RunFolder, enough: Callable[[], bool] | None = None) -> None:
        super().__init__(write_interval="batch")
        self.folder, self.enough = folder, enough

    def write_on_batch_end(
        self,
        trainer: lightning.Trainer,
        pl_module: lightning.LightningModule,
        prediction: Any,  # noqa: ANN401 (what the folder takes)
        batch_indices: Sequence[int] | None,
        batch: list[VQASample],
        batch_idx: int,
        dataloader_idx: int,
    ) -> None:
        self.folder.append(prediction)
        if trainer.received_sigterm:  # which Lightning's prediction loop notes and goes on
            raise SystemExit(128 + signal.SIGTERM)
        if self.enough and self.enough():
            raise Enough
