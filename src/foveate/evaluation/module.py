"""The prediction loop: compress, answer, score."""

from collections.abc import Sequence
from itertools import groupby

import pytorch_lightning as lightning
import torch
from pytorch_lightning.callbacks import BasePredictionWriter
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from foveate.compression import Compressor
from foveate.data.sample import VQASample
from foveate.evaluation.encodings import Encodings
from foveate.evaluation.records import Record, RecordFolder
from foveate.metrics.answers import SCORINGS
from foveate.metrics.evidence import evidence_recall, evidence_share, things_kept
from foveate.models.engine import Conversation, answer, answer_each
from foveate.models.pictures import Texts


class Answering(lightning.LightningModule):
    """Answers batches of questions whose pictures follow each other."""

    def __init__(self, encodings: Encodings, compressor: Compressor, max_new_tokens: int) -> None:
        super().__init__()
        self.encodings, self.compressor, self.max_new_tokens = encodings, compressor, max_new_tokens
        self.loaded = encodings.loaded

    def predict_step(self, batch: list[VQASample]) -> list[Record]:
        share = self._evidence(batch)
        groups = self._sharing_a_picture(batch)
        first = [group[0] for group in groups]
        prompts = [self.loaded.prompt(sample.question) for sample in batch]
        texts = Texts(
            [prompts[i] for i in first],
            [self.loaded.adapter.question(prompts[i], self.loaded.text_side.tail) for i in first],
            [batch[i].question for i in first],
        )
        pictures = self.encodings.pictures([batch[i].image_id for i in first], share[first], texts)
        compressed = self.compressor.compress(pictures)
        repack, llava, limit = self.compressor.repack, self.loaded.adapter, self.max_new_tokens
        if self.compressor.stages:
            tokens, cuts = answer_each(llava, prompts, compressed, repack, self.compressor.stages, limit)
            kept, blocks = cuts.decisions[-1].compression.kept, torch.stack(cuts.per_block, 1)
        else:
            asked = [[prompts[i] for i in group] for group in groups]
            conversations = [Conversation.from_prompts(group, llava.image_token) for group in asked]
            tokens = answer(llava, conversations, compressed, repack, limit)
            compression = compressed.decision.compression
            owner = [row for row, group in enumerate(groups) for _ in group]
            kept = [compression.kept[row] for row in owner]
            blocks = compression.count[owner][:, None].expand(-1, llava.decoder.depth)
        texts_only = [len(prompt) - prompt.count(llava.image_token) for prompt in prompts]
        return self._records(batch, self.loaded.text(tokens), kept, blocks, texts_only, share)

    def _sharing_a_picture(self, batch: Sequence[VQASample]) -> list[list[int]]:
        """Positions in the batch that share a compressed picture: all questions about it, unless each needs its own."""
        if self.compressor.per_question:
            return [[i] for i in range(len(batch))]
        return [list(group) for _, group in groupby(range(len(batch)), key=lambda i: batch[i].image_id)]

    def _evidence(self, batch: Sequence[VQASample]) -> Tensor:
        grid = self.loaded.adapter.tower.grid
        return pad_sequence([evidence_share(torch.from_numpy(s.evidence), grid) for s in batch], batch_first=True)

    def _records(
        self,
        batch: list[VQASample],
        answers: list[str],
        kept: list[Tensor],
        blocks: Tensor,
        text_tokens: list[int],
        share: Tensor,
    ) -> list[Record]:
        stays = torch.zeros(len(batch), share.shape[2], dtype=torch.bool)
        for row, patches in zip(stays, kept, strict=True):
            row[patches.cpu()] = True
        recall, covered = evidence_recall(stays, share).tolist(), things_kept(stays, share).tolist()
        return [
            Record(
                sample_id=sample.id,
                image_id=sample.image_id,
                kind=sample.kind,
                question=sample.question,
                reference=" | ".join(sample.references),
                prediction=text,
                score=SCORINGS[sample.scoring](text, sample.references),
                kept=kept[i].tolist(),
                tokens=int(blocks[i, 0]),
                tokens_per_block=blocks[i].tolist(),
                text_tokens=text_tokens[i],
                evidence_recall=recall[i],
                things_kept=covered[i],
            )
            for i, (sample, text) in enumerate(zip(batch, answers, strict=True))
        ]


class RecordWriter(BasePredictionWriter):
    """Puts every batch on disk as soon as it is answered."""

    def __init__(self, folder: RecordFolder) -> None:
        super().__init__(write_interval="batch")
        self.folder = folder

    def write_on_batch_end(
        self,
        trainer: lightning.Trainer,
        pl_module: lightning.LightningModule,
        prediction: list[Record],
        batch_indices: Sequence[int] | None,
        batch: list[VQASample],
        batch_idx: int,
        dataloader_idx: int,
    ) -> None:
        self.folder.append(prediction)
