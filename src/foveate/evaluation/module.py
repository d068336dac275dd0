"""The Lightning module of evaluations: compress, answer, score."""

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from itertools import groupby

import pytorch_lightning as lightning
import torch
from torch import Tensor

from foveate.compressors import Compressor
from foveate.compressors.base import checked_cuts, compressed_by
from foveate.core.compression import Compressed
from foveate.core.errors import DataError
from foveate.data.sample import VQASample
from foveate.evaluation.encodings import EncodedImages, Encodings
from foveate.evaluation.evidence import evidence_of
from foveate.evaluation.memory import InParts
from foveate.evaluation.names import REUSABLE, Reuse
from foveate.evaluation.prompts import RECORD_IT, Prompted
from foveate.evaluation.records import Record
from foveate.evaluation.several import SeveralImages
from foveate.metrics.answers import score_of
from foveate.metrics.evidence import evidence_recall, things_kept
from foveate.models.backbone.grouping import group_by_shape, in_groups
from foveate.models.loading.text_only import answer_text
from foveate.models.runtime.generation import Conversation, Decoding, answer, answer_each, likelihood
from foveate.models.runtime.greedy import Answers
from foveate.models.runtime.images import Texts
from foveate.models.runtime.pruning import Pruning


class Answering(lightning.LightningModule):
    """Answers batches of questions; those about the same image follow each other.

    A question about several images is answered by itself, and its images are not stored (`evaluation.several`).

    Args:
        encodings: The data set's encodings, of images at the size that the method wants.
        compressor: The method.
        max_new_tokens: Longest answer.
        skip: Whether a question that exceeds the model's context is recorded as failed; otherwise it is an error.
        reuse: Names of the results that are computed once and reused (`evaluation.names.Reuse`).
        leaders: By question ID, the question whose choice serves it (`leaders_of`); others have a choice of their own.
    """

    def __init__(
        self,
        encodings: Encodings,
        compressor: Compressor,
        max_new_tokens: int,
        skip: bool = False,
        reuse: Collection[Reuse] = REUSABLE,
        leaders: Mapping[str, VQASample] | None = None,
    ) -> None:
        super().__init__()
        self.encodings, self.max_new_tokens = encodings, max_new_tokens
        _, self.compressor = compressor.resized(encodings.loaded)
        self.loaded, self.skip, self.reuse = encodings.loaded, skip, reuse
        self.leaders = leaders or {}
        self.parts = InParts("questions", "answered", "--batch-size")

    def predict_step(self, batch: list[VQASample]) -> list[Record]:
        """Returns the records of a batch, answered in parts of at most as many questions as memory has sufficed for.

        Raises:
            MemoryExhausted: Memory does not suffice for a single question.
        """
        parts = self.parts.run(batch, self._answer, lambda sample: f"question {sample.id!r}")
        return [record for records in parts for record in records]

    def _answer(self, batch: Sequence[VQASample]) -> list[Record]:
        records = self._answer_batch(plain) if (plain := [sample for sample in batch if not sample.several]) else []
        return records + [self._answer_about_several(sample) for sample in batch if sample.several]

    def _answer_batch(self, batch: list[VQASample]) -> list[Record]:
        """Answers questions about one image or video, and text-only ones."""
        records, prompted = [], []
        for sample in batch:
            try:
                prompted.append(self._prompted(sample))
            except DataError as error:
                self._check(sample, str(error))
                records.append(Record.of_failure(sample, str(error)))
        for has_image, answered in ((True, self._answer_about_images), (False, self._answer_about_text)):
            if some := [question for question in prompted if question.sample.seen == has_image]:
                records += answered(some)
        return records

    def _prompted(self, sample: VQASample) -> Prompted:
        images = [self.encodings.arrangements[sample.image_id]] if sample.single else []
        return Prompted.of(self.loaded, sample, images, self.max_new_tokens)

    def _check(self, sample: VQASample, failure: str) -> None:
        """Raises `DataError` if a question that cannot be asked is not to be recorded as failed."""
        if not self.skip:
            raise DataError(f"question {sample.id!r}: {failure}; {RECORD_IT}")

    def _answer_about_several(self, sample: VQASample) -> Record:
        """Answers a question about several images."""
        try:
            images = SeveralImages.of(self.loaded, sample)
            question = Prompted.of(self.loaded, sample, images.arrangements, self.max_new_tokens)
        except DataError as error:
            self._check(sample, str(error))
            return Record.of_failure(sample, str(error))
        compressed = images.compressed(self.compressor, question.prompt)
        if self.compressor.cuts:
            answers, pruning = self._generate_with_cuts([question], compressed)
            kept, blocks = pruning.decisions[-1].compression.kept, torch.stack(pruning.per_block, 1)
        else:
            answers = self._generate([[0]], [question], compressed)
            kept = [images.kept(compressed)]
            blocks = compressed.visible.sum().expand(1, self.loaded.adapter.decoder.depth)
        share = torch.zeros(1, 0, images.patches)  # no evidence
        return self._records([question], answers, kept, blocks, share)[0]

    def _answer_about_images(self, batch: list[Prompted]) -> list[Record]:
        readers = self._readers(batch)
        if self.compressor.cuts:
            answers, kept, blocks = self._cut_answers(batch, readers)
        else:
            groups = self._groups(batch)
            compressed = self._compressed([readers[group[0]] for group in groups])
            answers = self._generate(groups, batch, compressed)
            owner = [row for row, group in enumerate(groups) for _ in group]
            kept_by_image = compressed.decision.compression.kept
            kept = [kept_by_image[row] for row in owner]
            blocks = compressed.visible[owner][:, None].expand(-1, self.loaded.adapter.decoder.depth)
        return self._records(batch, answers, kept, blocks, self._evidence(batch))

    def _readers(self, batch: list[Prompted]) -> list[Prompted]:
        """Returns for each question the one whose choice serves it: its leader, if that can be asked, or itself."""
        known = {question.sample.id: question for question in batch}
        readers = []
        for question in batch:
            leader = self.leaders.get(question.sample.id, question.sample)
            if leader.id not in known:
                with suppress(DataError):
                    known[leader.id] = self._prompted(leader)
            readers.append(known.get(leader.id, question))
        return readers

    def _cut_answers(self, batch: list[Prompted], readers: list[Prompted]) -> tuple[Answers, list[Tensor], Tensor]:
        """Answers questions with cuts; leaders that are not in the batch are asked, too."""
        number = len(batch)
        once = {question.sample.id: question for question in (*batch, *readers)}
        places = {sample_id: place for place, sample_id in enumerate(once)}
        rows = list(once.values())
        readers = [*readers, *rows[number:]]
        compressed = self._compressed(readers)
        if self.leaders:
            compressed = replace(compressed, leaders=tuple(places[reader.sample.id] for reader in readers))
        answers, pruning = self._generate_with_cuts(rows, compressed)
        kept, blocks = pruning.decisions[-1].compression.kept[:number], torch.stack(pruning.per_block, 1)[:number]
        return Answers(answers.tokens[:number], answers.log_probability[:number]), kept, blocks

    def _compressed(self, rows: Sequence[Prompted]) -> Compressed:
        """Returns the images of questions, compressed for these questions."""
        samples, prompts = [question.sample for question in rows], [question.prompt for question in rows]
        shapes, images = images_by_shape(self.encodings, samples, prompts, self._evidence(rows))
        compress = partial(compressed_by, self.compressor, extra_needs=self.loaded.adapter.extra_needs)
        return in_groups(compress, shapes, images)

    def _evidence(self, batch: Sequence[Prompted]) -> Tensor:
        samples = [question.sample for question in batch]
        return evidence_of(samples, [self.encodings.arrangements[sample.image_id] for sample in samples], self.loaded)

    def _answer_about_text(self, batch: list[Prompted]) -> list[Record]:
        """Answers text-only questions, which no compressor changes, as the stock model does."""
        prompts, references = [question.prompt for question in batch], [question.reference for question in batch]
        answers = answer_text(self.loaded, prompts, self.max_new_tokens, references)
        nothing = [torch.zeros(0, dtype=torch.long) for _ in batch]
        blocks = torch.zeros(len(batch), self.loaded.adapter.decoder.depth, dtype=torch.long)
        return self._records(batch, answers, nothing, blocks, torch.zeros(len(batch), 0, 0))

    def _generate_with_cuts(self, batch: Sequence[Prompted], compressed: Compressed) -> tuple[Answers, Pruning]:
        """Answers each question with its own image tokens, which cuts inside the language model need."""
        prompts, references = [question.prompt for question in batch], [question.reference for question in batch]
        adapter, method, limit = self.loaded.adapter, self.compressor, self.max_new_tokens
        cuts = checked_cuts(method)

        def generate(drafts: Sequence[Sequence[int]]) -> tuple[Answers, Pruning]:
            return answer_each(adapter, prompts, compressed, method.repack, cuts, Decoding(limit, drafts))

        answers, pruning = generate(references)
        if "drafts" not in self.reuse:
            answers = Answers(generate(())[0].tokens, answers.log_probability)
        return answers, pruning

    def _generate(self, groups: Sequence[Sequence[int]], batch: Sequence[Prompted], compressed: Compressed) -> Answers:
        """Answers the questions about each image after computing the keys and values of its tokens once."""
        adapter, texts = self.loaded.adapter, "texts" in self.reuse
        turns = [Conversation.from_prompts([batch[i].prompt for i in group], adapter.placeholders) for group in groups]
        drafts = [batch[i].reference for group in groups for i in group]
        inputs = (adapter, turns, compressed, self.compressor.repack)
        if "drafts" in self.reuse:
            return answer(*inputs, Decoding(self.max_new_tokens, drafts), share=texts)
        tokens = answer(*inputs, Decoding(self.max_new_tokens), share=texts).tokens
        return Answers(tokens, likelihood(*inputs, drafts, share=texts))

    def _groups(self, batch: Sequence[Prompted]) -> list[list[int]]:
        """Returns groups of positions in the batch that share a compressed image: each alone if that depends on it."""
        if self.compressor.per_question or "images" not in self.reuse:
            return [[i] for i in range(len(batch))]
        return [list(group) for _, group in groupby(range(len(batch)), key=lambda i: batch[i].sample.image_id)]

    def _records(
        self, batch: list[Prompted], answers: Answers, kept: list[Tensor], blocks: Tensor, share: Tensor
    ) -> list[Record]:
        texts, log_probability = self.loaded.text(answers.tokens), answers.log_probability.tolist()
        patches, per_block = [row.tolist() for row in kept], blocks.tolist()
        mask = _marked(kept, share.shape[2])
        recall, covered = evidence_recall(mask, share).tolist(), things_kept(mask, share).tolist()
        placeholders = self.loaded.adapter.placeholders  # of a configuration, which is slow to read
        return [
            Record(
                sample_id=question.sample.id,
                image_id=question.sample.image_id,
                kind=question.sample.kind,
                question=question.text,
                reference=" | ".join(question.sample.references),
                prediction=texts[i],
                score=score_of(texts[i], question.sample),
                kept=patches[i],
                tokens=per_block[i][0],
                tokens_per_block=per_block[i],
                text_tokens=len(question.prompt) - sum(map(question.prompt.count, placeholders)),
                evidence_recall=recall[i],
                things_kept=covered[i],
                log_probability=round(log_probability[i], 5)
                if question.sample.references
                else math.nan,  # later digits depend on the batch
                has_image=question.sample.seen,
            )
            for i, question in enumerate(batch)
        ]


def _marked(rows: Sequence[Tensor], length: int) -> Tensor:
    """Returns a (row, length) mask of the places that are listed for each row."""
    mask = torch.zeros(len(rows), length, dtype=torch.bool)
    row = torch.arange(len(rows)).repeat_interleave(torch.tensor([len(places) for places in rows]))
    mask[row, torch.cat(list(rows)).cpu()] = True
    return mask


def images_of_questions(
    encodings: Encodings, samples: Sequence[VQASample], prompts: Sequence[list[int]], share: Tensor
) -> EncodedImages:
    """Returns the images of questions, all of one arrangement, with the questions' texts: one row per question.

    Args:
        encodings: The data set's encodings.
        samples: The questions.
        prompts: Their uncompressed prompts.
        share: Their evidence (`evidence_of`), shape (question, thing, patch).
    """
    loaded = encodings.loaded
    questions = [loaded.adapter.question(prompt, loaded.text_side.tail) for prompt in prompts]
    texts = Texts(prompts, questions, [sample.question for sample in samples])
    return encodings.batch([sample.image_id for sample in samples], share, texts)


def images_by_shape(
    encodings: Encodings, samples: Sequence[VQASample], prompts: Sequence[list[int]], share: Tensor
) -> tuple[list[list[int]], Callable[[list[int]], EncodedImages]]:
    """Returns groups of questions whose images have the same arrangement, and a function from a group to its images.

    Arguments are those of `images_of_questions`.
    """
    arrangements = [encodings.arrangements[sample.image_id] for sample in samples]

    def images(rows: list[int]) -> EncodedImages:
        evidence = share[rows][..., : arrangements[rows[0]].patches]
        return images_of_questions(encodings, [samples[i] for i in rows], [prompts[i] for i in rows], evidence)

    return group_by_shape(arrangements), images
