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
from foveate.models.engine import Conversation, answer


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
        features, trace = self.encodings.trace([batch[i].image_id for i in first], self.compressor.needs, share[first])
        compression = self.compressor.decide(features, trace).compression
        conversations = [
            Conversation.from_prompts(
                [self.loaded.prompt(batch[i].question) for i in group], self.loaded.adapter.image_token
            )
            for group in groups
        ]
        tokens = answer(
            self.loaded.adapter, conversations, features, compression, self.compressor.repack, self.max_new_tokens
        )
        kept = compression.origin.cpu()[[row for row, group in enumerate(groups) for _ in group]]
        return self._records(batch, self.loaded.text(tokens), kept, share)

    def _sharing_a_picture(self, batch: Sequence[VQASample]) -> list[list[int]]:
        """Positions in the batch that share a compressed picture: all questions about it, unless each needs its own."""
        if any(need.per_question for need in self.compressor.needs):
            return [[i] for i in range(len(batch))]
        return [list(group) for _, group in groupby(range(len(batch)), key=lambda i: batch[i].image_id)]

    def _evidence(self, batch: Sequence[VQASample]) -> Tensor:
        grid = self.loaded.adapter.tower.grid
        return pad_sequence([evidence_share(torch.from_numpy(s.evidence), grid) for s in batch], batch_first=True)

    def _records(self, batch: list[VQASample], answers: list[str], kept: Tensor, share: Tensor) -> list[Record]:
        recall, covered = evidence_recall(kept, share).tolist(), things_kept(kept, share).tolist()
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
                tokens=kept.shape[1],
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
