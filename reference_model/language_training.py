"""Stage 2: training of projector and language model on the patch states of the frozen tower's penultimate layer.

Training on all 144 tokens does not learn to match words to patches. A curriculum on the number of visual tokens does:
first about four patches of every thing, then more, then all. Later batches drop tokens at random and number the rest by
either convention of positions, so that the finished model has seen compressed images.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import cast

import numpy as np
import pytorch_lightning as lightning
import torch
from pytorch_lightning.utilities.types import OptimizerLRScheduler
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import DataLoader, Dataset
from transformers import CLIPModel, CLIPVisionConfig, LlavaForConditionalGeneration

from foveate.core.progress import bar
from foveate.data.scenes.questions import QUESTION_KINDS, Question, make_questions
from foveate.data.scenes.scene import COLOURS, GLYPHS, KINDS, SIGN, make_scene, stream
from foveate.reference.architecture import FEATURE_LAYER, PATCHES, VOCABULARY, llava_config, make_tokenizer
from reference_model.training import computed_once, facts_of, image_of
from reference_model.vision_training import adamw, normalised, patch_labels, patch_owners

_IGNORE = -100
_SHOWN = 10  # pixels of a thing in a patch that the curriculum keeps
_PREFIX = tuple(VOCABULARY[word] for word in ("<s>", "USER", ":"))
_SUFFIX = tuple(VOCABULARY[word] for word in ("ASSISTANT", ":"))
_LIGHT = frozenset(VOCABULARY[word] for word in ("</s>", ","))  # easy to predict
_MAX_THINGS = 6


@dataclass(frozen=True)
class Phase:
    """A phase until this share of the steps, with `tokens` visual tokens, first `per_thing` patches of every thing."""

    until: float
    tokens: int
    per_thing: int


PHASES = (Phase(0.12, 10, 2), Phase(0.24, 20, 4), Phase(0.36, 48, 8))


class _TrainingImages(Dataset):
    def __init__(self, images: int, seed: int) -> None:
        self.images, self.seed = images, seed

    def __len__(self) -> int:
        return self.images

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor, Tensor, tuple]:
        scene = make_scene("train", index, self.seed)
        _, cover = patch_owners(scene)
        cover = F.pad(cover, (0, 0, 0, _MAX_THINGS - len(cover)))
        return normalised(scene.pixels), cover.to(torch.uint8), torch.stack(patch_labels(scene)), facts_of(scene)


def encoded_images(clip: CLIPModel, images: int, out: Path, seed: int = 0) -> dict:
    """Returns the features of the training images, computed once and stored in `out`.

    Returns:
        features (image, patch, dim) float16, cover (image, thing, patch) and labels (image, 3, patch), and the
        things of each image.
    """
    tower = clip.vision_model.eval()
    return computed_once(f"features-{images}-{seed}", tower, out, lambda: _encode(tower, images, seed))


@torch.inference_mode()
def _encode(tower: nn.Module, images: int, seed: int) -> dict:
    loader = DataLoader(_TrainingImages(images, seed), batch_size=64, num_workers=2, collate_fn=_columns)
    features, covers, labels, things = [], [], [], []
    for pixels, cover, label, contents in bar(loader, "batch", "encoding"):
        states = tower(pixel_values=torch.stack(pixels), output_hidden_states=True).hidden_states
        features.append(states[FEATURE_LAYER][:, 1:].half())
        covers.append(torch.stack(cover))
        labels.append(torch.stack(label).to(torch.int16))
        things += contents
    return {"features": torch.cat(features), "cover": torch.cat(covers), "labels": torch.cat(labels), "things": things}


def _columns(rows: list[tuple]) -> tuple[tuple, ...]:
    return tuple(zip(*rows, strict=True))


class SceneDialogues(Dataset):
    """Images with one question of every kind, packed into one sequence.

    Item i has new questions about image i modulo the number of images.
    """

    def __init__(self, indices: range, bank: dict, seed: int = 0) -> None:
        self.indices, self.bank, self.seed = indices, bank, seed
        self.tokenizer = make_tokenizer()

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, item: int) -> dict[str, Tensor]:
        index = self.indices[item]
        image, scene = image_of(self.bank, index)
        questions = make_questions(scene, stream("train", image, self.seed, 2, index))
        return {
            "features": self.bank["features"][image].float(),
            "cover": self.bank["cover"][image].float(),
            "labels": self.bank["labels"][image].long(),
            **self._pack(questions),
        }

    def _pack(self, questions: tuple[Question, ...]) -> dict[str, Tensor]:
        texts = self.tokenizer([q.text for q in questions], add_special_tokens=False).input_ids
        answers = self.tokenizer([q.answer for q in questions], add_special_tokens=False).input_ids
        ids, target, offset, block = [], [], [], []
        for number, (text, answer) in enumerate(zip(texts, answers, strict=True)):
            row = [*text, *_SUFFIX, *answer, VOCABULARY["</s>"]]
            ids += row
            target += [_IGNORE] * (len(text) + len(_SUFFIX) - 1) + row[len(text) + len(_SUFFIX) :] + [_IGNORE]
            offset += range(len(row))
            block += [number] * len(row)
        columns = {"ids": ids, "target": target, "offset": offset, "block": block}
        return {name: torch.tensor(values) for name, values in columns.items()}


def collate(rows: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    """Stacks images and right-pads the packed questions."""
    fill = {"ids": VOCABULARY["<pad>"], "target": _IGNORE, "offset": 0, "block": -1}
    packed = {
        name: pad_sequence([row[name] for row in rows], batch_first=True, padding_value=value)
        for name, value in fill.items()
    }
    return packed | {name: torch.stack([row[name] for row in rows]) for name in ("features", "cover", "labels")}


class LanguageTraining(lightning.LightningModule):
    """A training of `llava` with its vision tower frozen.

    An alignment loss, which fades out half-way, makes projected patches similar to the embeddings of the words that
    name their contents; LLaVA's own first stage gets this from captions.
    """

    def __init__(self, steps: int, clip: CLIPModel, learning_rate: float = 1e-3) -> None:
        super().__init__()
        self.save_hyperparameters("steps", "learning_rate")
        self.llava = LlavaForConditionalGeneration(llava_config(cast(CLIPVisionConfig, clip.config.vision_config)))
        weights = clip.vision_model.state_dict()
        prefix = "vision_model." if hasattr(self.llava.model.vision_tower, "vision_model") else ""
        self.llava.model.vision_tower.load_state_dict({prefix + name: value for name, value in weights.items()})
        self.llava.model.vision_tower.requires_grad_(False)

    def forward(self, batch: dict[str, Tensor], keep: Tensor, repack: bool) -> tuple[Tensor, Tensor]:
        """Returns the logits of the packed questions and the projected patches for the kept patches (batch, kept)."""
        rows, kept = keep.shape
        inner = self.llava.model
        projected = inner.multi_modal_projector(batch["features"])
        shown = projected.gather(1, keep[..., None].expand(-1, -1, projected.shape[-1]))
        prefix = torch.tensor(_PREFIX).expand(rows, -1)
        embed = inner.language_model.embed_tokens
        states = torch.cat([embed(prefix), shown.to(embed.weight.dtype), embed(batch["ids"])], 1)
        before = prefix.shape[1] + kept
        index = torch.arange(kept).expand(rows, -1) if repack else keep
        start = len(_PREFIX) + (kept if repack else PATCHES)
        position = torch.cat(
            [torch.arange(len(_PREFIX)).expand(rows, -1), len(_PREFIX) + index, start + batch["offset"]], 1
        )
        states = inner.language_model(
            inputs_embeds=states,
            attention_mask=_block_mask(batch["block"], before).to(states.dtype),
            position_ids=position,
            use_cache=False,
        ).last_hidden_state
        return self.llava.lm_head(states[:, before:]), projected

    def training_step(self, batch: dict[str, Tensor]) -> Tensor:
        progress = self.global_step / self.hparams["steps"]
        keep, repack = self._shown(batch["cover"], progress)
        # not the trainer's mixed precision, which refuses gradient clipping with a fused optimizer
        with torch.autocast(self.device.type, torch.bfloat16):
            logits, projected = self(batch, keep, repack)
        target = batch["target"]
        losses = F.cross_entropy(logits.float().transpose(1, 2), target, ignore_index=_IGNORE, reduction="none")
        weight = _token_weight(target, batch["block"])
        answer = (losses * weight).sum() / weight.sum()
        fade = max(0.0, 1 - progress / 0.5)
        alignment = self._alignment(projected.float(), batch["labels"]) if fade else torch.zeros(())
        self.log_dict({"loss/answer": answer, "loss/alignment": alignment})
        return answer + 0.5 * fade * alignment

    def _shown(self, cover: Tensor, progress: float) -> tuple[Tensor, bool]:
        """Returns the patches of this batch in ascending order, and whether their positions are consecutive."""
        repack = bool(torch.rand(()) < 0.5)
        for phase in PHASES:
            if progress < phase.until:
                return _some_of_everything(cover, phase.tokens, phase.per_thing), repack
        draw = float(torch.rand(()))
        tokens = int(PATCHES * np.random.choice([0.05, 0.1, 0.2, 0.35, 0.6]))
        if draw < 0.02:
            return torch.empty(len(cover), 0, dtype=torch.long), repack
        if draw < 0.24:
            return torch.rand(len(cover), PATCHES).topk(tokens, 1).indices.sort(1).values, repack
        if draw < 0.40:
            return _some_of_everything(cover, tokens, max(1, tokens // 5)), repack
        return torch.arange(PATCHES).expand(len(cover), -1), False

    def _alignment(self, projected: Tensor, labels: Tensor) -> Tensor:
        patches = F.normalize(projected, dim=-1)
        words = F.normalize(self.llava.model.language_model.embed_tokens.weight.float(), dim=-1)
        losses = []
        for names, label in zip((COLOURS, (*KINDS, SIGN), GLYPHS), labels.unbind(1), strict=True):
            ids = torch.tensor([VOCABULARY[name] for name in names])
            named = (label >= 0) & (label < len(names))
            losses.append(F.cross_entropy(10 * patches[named] @ words[ids].T, label[named]))
        return torch.stack(losses).sum()

    def validation_step(self, batch: dict[str, Tensor]) -> None:
        """Logs the share of questions of each kind whose answer tokens are all predicted correctly."""
        views = {
            "": torch.arange(PATCHES).expand(len(batch["ids"]), -1),
            "few/": _some_of_everything(batch["cover"], PHASES[0].tokens, PHASES[0].per_thing),
        }
        for view, keep in views.items():
            logits, _ = self(batch, keep, repack=False)
            wrong = (logits.argmax(-1) != batch["target"]) & (batch["target"] != _IGNORE)
            for number, kind in enumerate(QUESTION_KINDS):
                right = ~(wrong & (batch["block"] == number)).any(1)
                self.log(f"{view}{kind}", right.float().mean(), sync_dist=True)

    def configure_optimizers(self) -> OptimizerLRScheduler:
        return adamw(self, self.hparams["learning_rate"], (0.9, 0.95), self.hparams["steps"])


def _token_weight(target: Tensor, block: Tensor) -> Tensor:
    """Returns token weights: equal sums per question, doubled for multiple choice, and 0.1 for ends and commas."""
    light = torch.isin(target, torch.tensor(sorted(_LIGHT)))
    weight = torch.where(light, 0.1, 1.0) * (target != _IGNORE)
    question = block.clamp(min=0)
    total = torch.zeros(len(target), len(QUESTION_KINDS)).scatter_add_(1, question, weight)
    doubled = 1.0 + (question == list(QUESTION_KINDS).index("multiple_choice"))
    return doubled * weight / total.gather(1, question).clamp(min=1.0)


def _block_mask(block: Tensor, before: int) -> Tensor:
    """Returns the additive mask (batch, 1, token, token): causal; questions attend to the image and themselves only."""
    rows = len(block)
    owner = torch.cat([torch.full((rows, before), -2), block], 1)
    allowed = (owner[:, :, None] == owner[:, None, :]) | (owner[:, None, :] == -2)
    allowed &= torch.ones(owner.shape[1], owner.shape[1], dtype=torch.bool).tril()
    return torch.zeros(allowed.shape).masked_fill(~allowed, -1e30)[:, None]


def _some_of_everything(cover: Tensor, tokens: int, per_thing: int) -> Tensor:
    """Returns ascending patches: up to `per_thing` well-covered patches of every thing, the others at random."""
    noisy = (cover + 8 * torch.rand_like(cover)).masked_fill(cover < _SHOWN, -1)
    rank = noisy.argsort(-1, descending=True).argsort(-1)
    chosen = (rank < per_thing) & (noisy > 0)
    score = (chosen * (2 + torch.rand_like(cover))).amax(1) + 0.5 * torch.rand(len(cover), PATCHES)
    return score.topk(tokens, 1).indices.sort(1).values
