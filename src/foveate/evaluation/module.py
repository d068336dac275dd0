"""The prediction loop: compress, answer, score."""

import signal
from collections import Counter
from collections.abc import Callable, Sequence
from itertools import groupby
from typing import Any

import pytorch_lightning as lightning
import torch
from pytorch_lightning.callbacks import BasePredictionWriter
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from foveate.compression import Compressor
from foveate.core.types import Grid
from foveate.data.sample import VQASample
from foveate.evaluation.encodings import EncodedPictures, Encodings
from foveate.evaluation.records import Record, RunFolder
from foveate.metrics.answers import SCORINGS
from foveate.metrics.evidence import evidence_recall, evidence_share, things_kept
from foveate.models.engine import Answers, Conversation, answer, answer_each
from foveate.models.pictures import Texts


class Answering(lightning.LightningModule):
    """Answers batches of questions whose pictures follow each other."""

    def __init__(self, encodings: Encodings, compressor: Compressor, max_new_tokens: int) -> None:
        super().__init__()
        self.encodings, self.compressor, self.max_new_tokens = encodings, compressor, max_new_tokens
        self.loaded = encodings.loaded

    def predict_step(self, batch: list[VQASample]) -> list[Record]:
        share = evidence_of(batch, self.loaded.adapter.tower.grid)
        groups = self._sharing_a_picture(batch)
        first = [group[0] for group in groups]
        prompts = [self.loaded.prompt(sample.question) for sample in batch]
        pictures = asked(self.encodings, [batch[i] for i in first], [prompts[i] for i in first], share[first])
        references = [self.loaded.reference(sample.question, _foremost(sample.references)) for sample in batch]
        compressed = self.compressor.compress(pictures)
        repack, llava, limit = self.compressor.repack, self.loaded.adapter, self.max_new_tokens
        if self.compressor.stages:
            answers, cuts = answer_each(llava, prompts, compressed, repack, self.compressor.stages, limit, references)
            kept, blocks = cuts.decisions[-1].compression.kept, torch.stack(cuts.per_block, 1)
        else:
            turns = [[prompts[i] for i in group] for group in groups]
            conversations = [Conversation.from_prompts(group, llava.image_token) for group in turns]
            answers = answer(llava, conversations, compressed, repack, limit, references)
            compression = compressed.decision.compression
            owner = [row for row, group in enumerate(groups) for _ in group]
            kept = [compression.kept[row] for row in owner]
            blocks = compression.count[owner][:, None].expand(-1, llava.decoder.depth)
        texts_only = [len(prompt) - prompt.count(llava.image_token) for prompt in prompts]
        return self._records(batch, answers, kept, blocks, texts_only, share)

    def _sharing_a_picture(self, batch: Sequence[VQASample]) -> list[list[int]]:
        """Positions in the batch that share a compressed picture: all questions about it, unless each needs its own."""
        if self.compressor.per_question:
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
                question=sample.question,
                reference=" | ".join(sample.references),
                prediction=said[i],
                score=SCORINGS[sample.scoring](said[i], sample.references),
                kept=kept[i].tolist(),
                tokens=int(blocks[i, 0]),
                tokens_per_block=blocks[i].tolist(),
                text_tokens=text_tokens[i],
                evidence_recall=recall[i],
                things_kept=covered[i],
                log_probability=round(likely[i], 5),  # the rest depends on the batch
            )
            for i, sample in enumerate(batch)
        ]


def asked(
    encodings: Encodings, samples: Sequence[VQASample], prompts: Sequence[list[int]], share: Tensor
) -> EncodedPictures:
    """The pictures of these questions with what is asked about them, one row per question.

    Args:
        encodings: Of the data set.
        samples: The questions.
        prompts: Their full prompts.
        share: See `evidence_of`.
    """
    loaded = encodings.loaded
    questions = [loaded.adapter.question(prompt, loaded.text_side.tail) for prompt in prompts]
    texts = Texts(prompts, questions, [sample.question for sample in samples])
    return encodings.pictures([sample.image_id for sample in samples], share, texts)


def evidence_of(samples: Sequence[VQASample], grid: Grid) -> Tensor:
    """(question, thing, patch): see `evidence_share`."""
    return pad_sequence([evidence_share(torch.from_numpy(s.evidence), grid) for s in samples], batch_first=True)


def _foremost(references: Sequence[str]) -> str:
    """The most frequent one; of equals the first."""
    return Counter(references).most_common(1)[0][0]


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
