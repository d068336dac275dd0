"""Stage 2: training of projector and language model on the patch states of the frozen tower's penultimate layer.

Training on everything at once learns no look-up. Two things help: few visual tokens at first, and look-ups by the kind
of a thing before all other questions. A phase ends when its questions are answered. While there are few tokens, the
first blocks hide the image from the text, so that words find patches behind them, as in large models; later phases
train the stock model. The last one drops tokens at random and numbers the rest by either convention of positions, so
that the finished model has seen compressed images, and some batches show no image.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, cast

import pytorch_lightning as lightning
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import (
    CLIPModel,
    CLIPVisionConfig,
    LlavaForConditionalGeneration,
    LlavaNextVideoForConditionalGeneration,
)

from foveate.data.scenes.scene import Role
from foveate.reference.architecture import PATCHES, VOCABULARY, llava_config
from reference_model.dialogues import KIND_NAMES, PREFIX, WORDS, Texts
from reference_model.training import use_fast_attention
from reference_model.vision_training import IGNORE

_LIGHT = (VOCABULARY["</s>"], VOCABULARY[","])  # easy to predict
_BY_KIND = ("color", "position", "describe", "compare", "digit", "exist")
_SHARES = (0.05, 0.1, 0.2, 0.35, 0.6)  # of the patches that are kept when some are dropped


@dataclass(frozen=True)
class LanguagePhase:
    """A phase of stage 2.

    Attributes:
        epochs: Number of epochs at most.
        tokens: Patches that are shown, first those that can be asked about; None is the last phase, which drops some.
        texts: Texts per image.
        until: The phase ends earlier when these kinds have these shares of right answers.
        hidden: Number of first blocks that hide the image from the text.
    """

    epochs: int
    tokens: int | None
    texts: Texts
    until: Mapping[str, float] = field(default_factory=dict)
    hidden: int = 0


LANGUAGE_PHASES = (
    LanguagePhase(8, 26, Texts(5, 1, _BY_KIND), {"color": 0.9}, 2),
    LanguagePhase(14, 26, Texts(6, 2), {"color": 0.9, "exist": 0.9, "read": 0.9, "two_hop": 0.8}, 2),
    LanguagePhase(4, 60, Texts(7, 1)),
    LanguagePhase(10, None, Texts(7)),
)


class LanguageTraining(lightning.LightningModule):
    """A training of `llava` with its vision tower frozen.

    An alignment loss makes projected patches similar to the embeddings of the words that name their contents; LLaVA's
    own first stage gets this from captions. Matrices of blocks and projector are trained by Muon, which finds look-ups
    in half of the steps that AdamW needs, all else by AdamW.
    """

    patches = PATCHES
    kinds = KIND_NAMES
    alignment = 0.5  # weight of the alignment loss

    def __init__(
        self,
        llava: LlavaForConditionalGeneration | LlavaNextVideoForConditionalGeneration,
        phases: tuple[LanguagePhase, ...] = LANGUAGE_PHASES,
        learning_rate: float = 2e-3,
    ) -> None:
        super().__init__()
        self.automatic_optimization = False  # two optimizers
        self.phases, self.learning_rate = phases, learning_rate
        self.phase, self.epochs_in_phase, self.steps = 0, 0, 0
        self.llava = llava
        self.llava.model.vision_tower.requires_grad_(False)
        use_fast_attention(self.llava.model.language_model)
        self._image_columns = slice(0, 0)
        for number, block in enumerate(self.llava.model.language_model.layers):
            block.register_forward_pre_hook(partial(self._hide_image, number), with_kwargs=True)

    @property
    def current(self) -> LanguagePhase:
        return self.phases[self.phase]

    def _hide_image(
        self, number: int, block: nn.Module, arguments: tuple, options: dict[str, Any]
    ) -> tuple[tuple, dict[str, Any]]:
        if number >= self.current.hidden:
            return arguments, options
        mask = options["attention_mask"].clone()
        mask[:, :, self._image_columns.stop :, self._image_columns] = -1e30
        return arguments, options | {"attention_mask": mask}

    def forward(self, batch: dict[str, Tensor], keep: Tensor, repack: bool) -> tuple[Tensor, Tensor]:
        """Returns the logits of the packed texts and the projected kept patches (batch, kept)."""
        rows, kept = keep.shape
        inner = self.llava.model
        features = batch["features"].float()
        shown = inner.multi_modal_projector(features.gather(1, keep[..., None].expand(-1, -1, features.shape[-1])))
        prefix = torch.tensor(PREFIX).expand(rows, -1)
        embed = inner.language_model.embed_tokens
        states = torch.cat([embed(prefix), shown.to(embed.weight.dtype), embed(batch["ids"])], 1)
        before = len(PREFIX) + kept
        self._image_columns = slice(len(PREFIX), before)
        index = torch.arange(kept).expand(rows, -1) if repack else keep
        start = len(PREFIX) + (kept if repack else self.patches)
        position = torch.cat(
            [torch.arange(len(PREFIX)).expand(rows, -1), len(PREFIX) + index, start + batch["offset"]], 1
        )
        states = inner.language_model(
            inputs_embeds=states,
            attention_mask=_block_mask(batch["block"], before),
            position_ids=position,
            use_cache=False,
        ).last_hidden_state
        return self.llava.lm_head(states[:, before:]), shown

    def training_step(self, batch: dict[str, Tensor]) -> None:
        keep, repack = self._shown(batch)
        # not the trainer's mixed precision, which keeps no float32 attention
        with torch.autocast(self.device.type, torch.bfloat16):
            logits, shown = self(batch, keep, repack)
        losses = self._losses(batch, logits, shown, keep, repack)
        self.log_dict({f"loss/{name}": value for name, value in losses.items()})
        self.log("phase", float(self.phase), on_step=False, on_epoch=True)  # an epoch may be shorter than 50 steps
        self._step(torch.stack(list(losses.values())).sum())

    def _losses(
        self, batch: dict[str, Tensor], logits: Tensor, shown: Tensor, keep: Tensor, repack: bool
    ) -> dict[str, Tensor]:
        """Returns the losses of a step, which are summed."""
        losses = {"answer": _answer_loss(logits, batch)}
        if self.current.tokens is not None:
            losses["alignment"] = self.alignment * self._alignment_loss(shown, batch["labels"], keep)
        return losses

    def _step(self, loss: Tensor) -> None:
        optimizers = cast(list, self.optimizers())
        rate = self.learning_rate * self._rate_factor()
        for optimizer in optimizers:
            for group in optimizer.param_groups:
                group["lr"] = rate * group["factor"]
            optimizer.zero_grad()
        self.manual_backward(loss)
        nn.utils.clip_grad_norm_(self.parameters(), 1.0)
        for optimizer in optimizers:
            optimizer.step()
        self.steps += 1

    def _rate_factor(self, warmup: int = 150, floor: float = 0.02) -> float:
        """Returns the factor of the learning rate: constant after warm-up, and falling linearly in the last phase."""
        if self.current.tokens is not None:
            return min(1.0, (self.steps + 1) / warmup)
        batches = self.trainer.num_training_batches
        done = (self.epochs_in_phase + self.trainer.fit_loop.batch_idx / batches) / self.current.epochs
        return floor + (1 - floor) * (1 - min(1.0, done))

    def _shown(self, batch: dict[str, Tensor]) -> tuple[Tensor, bool]:
        """Returns the patches of this batch in ascending order, and whether their positions are consecutive."""
        rows, repack = len(batch["ids"]), bool(torch.rand(()) < 0.5)
        if self.current.tokens is not None:
            return relevant_first(batch["roles"], batch["parts"], self.current.tokens), repack
        draw, tokens = float(torch.rand(())), int(PATCHES * _SHARES[int(torch.randint(len(_SHARES), ()))])
        if draw < 0.03:
            return torch.empty(rows, 0, dtype=torch.long), repack
        if draw < 0.23:
            return torch.rand(rows, PATCHES).topk(tokens, 1).indices.sort(1).values, repack
        if draw < 0.40:
            return relevant_first(batch["roles"], batch["parts"], tokens), repack
        return torch.arange(PATCHES).expand(rows, -1), False

    def _alignment_loss(self, shown: Tensor, labels: Tensor, keep: Tensor) -> Tensor:
        """Returns the loss of telling from a projected patch which words name its content and its place."""
        patches = F.normalize(shown.float(), dim=-1)
        words = F.normalize(self.llava.model.language_model.embed_tokens.weight.float(), dim=-1)
        losses = []
        for names, label in zip(WORDS.values(), labels.unbind(1), strict=True):
            label = label.gather(1, keep)
            ids = torch.tensor([VOCABULARY[name] for name in names])
            losses.append(F.cross_entropy(10 * patches[label != IGNORE] @ words[ids].T, label[label != IGNORE]))
        return torch.stack(losses).sum()

    def validation_step(self, batch: dict[str, Tensor]) -> None:
        """Logs the share of questions of each kind whose answer tokens are all predicted correctly."""
        views = {"all/": torch.arange(self.patches).expand(len(batch["ids"]), -1)}
        if self.current.tokens is not None:
            views["phase/"] = relevant_first(batch["roles"], batch["parts"], self.current.tokens)
        for view, keep in views.items():
            logits, _ = self(batch, keep, repack=False)
            for kind, right in right_answers(logits, batch, self.kinds).items():
                self.log(f"{view}{kind}", right.float().mean())

    def on_validation_epoch_end(self) -> None:
        """Moves to the next phase when this one is finished, before the checkpoint of the epoch is written."""
        self.epochs_in_phase += 1
        reached = self.trainer.callback_metrics
        until = self.current.until
        learned = bool(until) and all(float(reached[f"phase/{kind}"]) >= share for kind, share in until.items())
        if learned or self.epochs_in_phase >= self.current.epochs:
            if self.phase + 1 == len(self.phases):
                self.trainer.should_stop = True
            else:
                self.phase, self.epochs_in_phase = self.phase + 1, 0

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["progress"] = {"phase": self.phase, "epochs_in_phase": self.epochs_in_phase, "steps": self.steps}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        for name, value in checkpoint["progress"].items():
            setattr(self, name, value)

    def configure_optimizers(self) -> tuple[torch.optim.Optimizer, torch.optim.Optimizer]:
        trained = {name: p for name, p in self.named_parameters() if p.requires_grad}
        hidden = [p for n, p in trained.items() if p.ndim == 2 and ("layers." in n or "projector" in n)]
        others = [p for n, p in trained.items() if p.ndim == 2 and not ("layers." in n or "projector" in n)]
        vectors = [p for p in trained.values() if p.ndim < 2]
        adamw = torch.optim.AdamW(
            [
                {"params": others, "weight_decay": 0.05, "factor": 1.0},
                {"params": vectors, "weight_decay": 0.0, "factor": 1.0},
            ],
            lr=self.learning_rate,
            betas=(0.9, 0.95),
            fused=True,
        )
        muon = torch.optim.Muon(
            [{"params": hidden, "factor": 2.0}],
            lr=self.learning_rate,
            weight_decay=0.05,
            adjust_lr_fn="match_rms_adamw",
        )
        return adamw, muon


def untrained_llava(clip: CLIPModel) -> LlavaForConditionalGeneration:
    """Returns a LLaVA with the tower of a CLIP, and everything else random."""
    llava = LlavaForConditionalGeneration(llava_config(cast(CLIPVisionConfig, clip.config.vision_config)))
    tower, weights = llava.model.vision_tower, clip.vision_model.state_dict()
    prefix = "vision_model." if hasattr(tower, "vision_model") else ""
    tower.load_state_dict({prefix + name: value for name, value in weights.items()})
    return llava


def relevant_first(roles: Tensor, parts: Tensor, tokens: int) -> Tensor:
    """Returns `tokens` patches in ascending order: whole parts, first those that can be asked about, then any."""
    priority = torch.rand(len(parts), int(parts.max()) + 1).gather(1, parts.long())
    priority += 2.0 * (roles <= Role.DIGIT)
    return priority.topk(tokens, 1).indices.sort(1).values


def right_answers(logits: Tensor, batch: dict[str, Tensor], kinds: Sequence[str] = KIND_NAMES) -> dict[str, Tensor]:
    """Returns for each kind of question whether all answer tokens are the most likely ones, (question,) bool."""
    wrong = (logits.argmax(-1) != batch["target"]) & (batch["target"] != IGNORE)
    right = {}
    for number, kind in enumerate(kinds):
        own = batch["block"] == number
        right[kind] = ~(wrong & own).any(1)[own.any(1)]
    return right


def _answer_loss(logits: Tensor, batch: dict[str, Tensor]) -> Tensor:
    """Returns the mean loss of the answer tokens; see `_token_weight`."""
    target = batch["target"]
    losses = F.cross_entropy(logits.float().transpose(1, 2), target, ignore_index=IGNORE, reduction="none")
    weight = _token_weight(target, batch["block"])
    return (losses * weight).sum() / weight.sum()


def _token_weight(target: Tensor, block: Tensor) -> Tensor:
    """Returns token weights: a text weighs the root of its length, ends and commas a tenth of other tokens."""
    light = torch.isin(target, torch.tensor(_LIGHT))
    weight = torch.where(light, 0.1, 1.0) * (target != IGNORE)
    text = block.clamp(min=0)
    total = torch.zeros(len(target), int(text.max()) + 1).scatter_add_(1, text, weight)
    return weight / total.gather(1, text).clamp(min=1.0).sqrt()


def _block_mask(block: Tensor, before: int) -> Tensor:
    """Returns the additive mask (batch, 1, token, token): causal; texts attend to the image and themselves only."""
    rows = len(block)
    owner = torch.cat([torch.full((rows, before), -2), block], 1)
    allowed = (owner[:, :, None] == owner[:, None, :]) | (owner[:, None, :] == -2)
    allowed &= torch.ones(owner.shape[1], owner.shape[1], dtype=torch.bool).tril()
    return torch.zeros(allowed.shape).masked_fill(~allowed, -1e30)[:, None]
