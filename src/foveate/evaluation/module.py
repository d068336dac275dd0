"""The Lightning module of evaluations: compress, answer, score."""

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from functools import partial
from itertools import groupby

import pytorch_lightning as lightning
import torch
from torch import Tensor

from foveate.compressors import Compressor
from foveate.compressors.base import checked_cuts, compressed_by
from foveate.core.compression import Compressed
from foveate.core.errors import DataError, lacks_memory
from foveate.data.sample import VQASample
from foveate.evaluation.encodings import EncodedImages, Encodings
from foveate.evaluation.evidence import evidence_of
from foveate.evaluation.memory import exhausted, halved
from foveate.evaluation.names import REUSABLE, Reuse
from foveate.evaluation.prompts import RECORD_IT, prompt_of, question_text, reference_of
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

Prompted = tuple[VQASample, list[int]]
"""A question with its prompt."""


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
        self.most: int | None = None

    def predict_step(self, batch: list[VQASample]) -> list[Record]:
        """Returns the records of a batch, answered in parts of at most as many questions as memory has sufficed for.

        Raises:
            MemoryExhausted: Memory does not suffice for a single question.
        """
        records: list[Record] = []
        left = batch
        while left:
            some = left[: self.most]
            try:
                records += self._answer(some)
            except (RuntimeError, MemoryError) as error:
                if not lacks_memory(error):
                    raise
                if len(some) == 1:
                    raise exhausted(f"question {some[0].id!r} alone", error) from error
            else:
                left = left[len(some) :]
                continue
            self.most = halved(len(some))  # here, where the error's frames hold no tensors any more
        return records

    def _answer(self, batch: list[VQASample]) -> list[Record]:
        records = self._answer_batch(plain) if (plain := [sample for sample in batch if not sample.several]) else []
        return records + [self._answer_about_several(sample) for sample in batch if sample.several]

    def _answer_batch(self, batch: list[VQASample]) -> list[Record]:
        """Answers questions about one image or video, and text-only ones."""
        prompts, failures = zip(*(self._prompt(sample) for sample in batch), strict=True)
        for sample, failure in zip(batch, failures, strict=True):
            self._check(sample, failure)
        records = [Record.of_failure(*pair) for pair in zip(batch, failures, strict=True) if pair[1]]
        rows = [row for row, failure in enumerate(failures) if not failure]
        for has_image, answer_rows in ((True, self._answer_about_images), (False, self._answer_about_text)):
            if some := [row for row in rows if batch[row].seen == has_image]:
                records += answer_rows([batch[row] for row in some], [prompts[row] for row in some])
        return records

    def _prompt(self, sample: VQASample) -> tuple[list[int], str]:
        """Returns the prompt of a question, and the reason why it cannot be asked, or an empty string."""
        images = [self.encodings.arrangements[sample.image_id]] if sample.single else []
        try:
            return prompt_of(self.loaded, sample, images, self.max_new_tokens), ""
        except DataError as error:
            return [], str(error)

    def _check(self, sample: VQASample, failure: str) -> None:
        """Raises `DataError` if a question cannot be asked and is not to be recorded as failed."""
        if failure and not self.skip:
            raise DataError(f"question {sample.id!r}: {failure}; {RECORD_IT}")

    def _answer_about_several(self, sample: VQASample) -> Record:
        """Answers a question about several images."""
        try:
            images = SeveralImages.of(self.loaded, sample)
            prompt = prompt_of(self.loaded, sample, images.arrangements, self.max_new_tokens)
        except DataError as error:
            self._check(sample, str(error))
            return Record.of_failure(sample, str(error))
        compressed = images.compressed(self.compressor, prompt)
        references = [reference_of(self.loaded, sample)]
        if self.compressor.cuts:
            answers, pruning = self._generate_with_cuts([prompt], compressed, references)
            kept, blocks = pruning.decisions[-1].compression.kept, torch.stack(pruning.per_block, 1)
        else:
            answers = self._generate([[0]], [prompt], compressed, references)
            kept = [images.kept(compressed)]
            blocks = compressed.visible.sum().expand(1, self.loaded.adapter.decoder.depth)
        text_tokens = [self._text_tokens(prompt)]
        share = torch.zeros(1, 0, images.patches)  # no evidence
        return self._records([sample], answers, kept, blocks, text_tokens, share)[0]

    def _answer_about_images(self, batch: list[VQASample], prompts: list[list[int]]) -> list[Record]:
        readers = self._readers(batch, prompts)
        if self.compressor.cuts:
            answers, kept, blocks = self._cut_answers(list(zip(batch, prompts, strict=True)), readers)
        else:
            groups = self._groups(batch)
            compressed = self._compressed([readers[group[0]] for group in groups])
            references = [reference_of(self.loaded, sample) for sample in batch]
            answers = self._generate(groups, prompts, compressed, references)
            owner = [row for row, group in enumerate(groups) for _ in group]
            kept_by_image = compressed.decision.compression.kept
            kept = [kept_by_image[row] for row in owner]
            blocks = compressed.visible[owner][:, None].expand(-1, self.loaded.adapter.decoder.depth)
        text_tokens = [self._text_tokens(prompt) for prompt in prompts]
        return self._records(batch, answers, kept, blocks, text_tokens, self._evidence(batch))

    def _text_tokens(self, prompt: Sequence[int]) -> int:
        """Returns the number of tokens of a prompt that stand for no image or video."""
        placeholders = self.loaded.adapter.placeholders  # of a configuration, which is slow to read
        return sum(token not in placeholders for token in prompt)

    def _readers(self, batch: list[VQASample], prompts: list[list[int]]) -> list[Prompted]:
        """Returns for each question the one whose choice serves it: its leader, if that can be asked, or itself."""
        known = {sample.id: (sample, prompt) for sample, prompt in zip(batch, prompts, strict=True)}
        readers = []
        for sample in batch:
            leader = self.leaders.get(sample.id, sample)
            if leader.id not in known:
                known[leader.id] = leader, self._prompt(leader)[0]
            readers.append(known[leader.id] if known[leader.id][1] else known[sample.id])
        return readers

    def _cut_answers(self, batch: list[Prompted], readers: list[Prompted]) -> tuple[Answers, list[Tensor], Tensor]:
        """Answers questions with cuts; leaders that are not in the batch are asked, too."""
        number = len(batch)
        once = {sample.id: (sample, prompt) for sample, prompt in (*batch, *readers)}
        places = {sample_id: place for place, sample_id in enumerate(once)}
        rows = list(once.values())
        readers = [*readers, *rows[number:]]
        compressed = self._compressed(readers)
        if self.leaders:
            compressed = replace(compressed, leaders=tuple(places[sample.id] for sample, _ in readers))
        references = [reference_of(self.loaded, sample) for sample, _ in rows]
        answers, pruning = self._generate_with_cuts([prompt for _, prompt in rows], compressed, references)
        kept, blocks = pruning.decisions[-1].compression.kept[:number], torch.stack(pruning.per_block, 1)[:number]
        return Answers(answers.tokens[:number], answers.log_probability[:number]), kept, blocks

    def _compressed(self, rows: Sequence[Prompted]) -> Compressed:
        """Returns the images of questions, compressed for these questions."""
        samples, prompts = [sample for sample, _ in rows], [prompt for _, prompt in rows]
        shapes, images = images_by_shape(self.encodings, samples, prompts, self._evidence(samples))
        compress = partial(compressed_by, self.compressor, extra_needs=self.loaded.adapter.extra_needs)
        return in_groups(compress, shapes, images)

    def _evidence(self, samples: Sequence[VQASample]) -> Tensor:
        return evidence_of(samples, [self.encodings.arrangements[sample.image_id] for sample in samples], self.loaded)

    def _answer_about_text(self, batch: list[VQASample], prompts: list[list[int]]) -> list[Record]:
        """Answers text-only questions, which no compressor changes, as the stock model does."""
        references = [reference_of(self.loaded, sample) for sample in batch]
        answers = answer_text(self.loaded, prompts, self.max_new_tokens, references)
        nothing = [torch.zeros(0, dtype=torch.long) for _ in batch]
        blocks = torch.zeros(len(batch), self.loaded.adapter.decoder.depth, dtype=torch.long)
        share = torch.zeros(len(batch), 0, 0)
        return self._records(batch, answers, nothing, blocks, [len(prompt) for prompt in prompts], share)

    def _generate_with_cuts(
        self, prompts: Sequence[list[int]], compressed: Compressed, references: Sequence[Sequence[int]]
    ) -> tuple[Answers, Pruning]:
        """Answers each question with its own image tokens, which cuts inside the language model need."""
        adapter, method, limit = self.loaded.adapter, self.compressor, self.max_new_tokens
        cuts = checked_cuts(method)

        def generate(drafts: Sequence[Sequence[int]]) -> tuple[Answers, Pruning]:
            return answer_each(adapter, prompts, compressed, method.repack, cuts, Decoding(limit, drafts))

        answers, pruning = generate(references)
        if "drafts" not in self.reuse:
            answers = Answers(generate(())[0].tokens, answers.log_probability)
        return answers, pruning

    def _generate(
        self,
        groups: Sequence[Sequence[int]],
        prompts: Sequence[list[int]],
        compressed: Compressed,
        references: Sequence[Sequence[int]],
    ) -> Answers:
        """Answers the questions about each image after computing the keys and values of its tokens once."""
        adapter, texts = self.loaded.adapter, "texts" in self.reuse
        turns = [Conversation.from_prompts([prompts[i] for i in group], adapter.placeholders) for group in groups]
        drafts = [references[i] for group in groups for i in group]
        inputs = (adapter, turns, compressed, self.compressor.repack)
        if "drafts" in self.reuse:
            return answer(*inputs, Decoding(self.max_new_tokens, drafts), share=texts)
        tokens = answer(*inputs, Decoding(self.max_new_tokens), share=texts).tokens
        return Answers(tokens, likelihood(*inputs, drafts, share=texts))

    def _groups(self, batch: Sequence[VQASample]) -> list[list[int]]:
        """Returns groups of positions in the batch that share a compressed image: each alone if that depends on it."""
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
        kept_mask = torch.zeros(len(batch), share.shape[2], dtype=torch.bool)
        for row, patches in zip(kept_mask, kept, strict=True):
            row[patches.cpu()] = True
        texts, log_probability = self.loaded.text(answers.tokens), answers.log_probability.tolist()
        recall, covered = evidence_recall(kept_mask, share).tolist(), things_kept(kept_mask, share).tolist()
        return [
            Record(
                sample_id=sample.id,
                image_id=sample.image_id,
                kind=sample.kind,
                question=question_text(self.loaded, sample),
                reference=" | ".join(sample.references),
                prediction=texts[i],
                score=score_of(texts[i], sample),
                kept=kept[i].tolist(),
                tokens=int(blocks[i, 0]),
                tokens_per_block=blocks[i].tolist(),
                text_tokens=text_tokens[i],
                evidence_recall=recall[i],
                things_kept=covered[i],
                log_probability=round(log_probability[i], 5)
                if sample.references
                else math.nan,  # later digits depend on the batch
                has_image=sample.seen,
            )
            for i, sample in enumerate(batch)
        ]


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
