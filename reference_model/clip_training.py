"""Training of a LLaVA-NeXT-Video on clips, from the weights of a finished LLaVA.

The tower stays frozen and patches are not pooled. What is new is time: a language model of this kind knows the frame of
a patch from its position alone. A loss on the states of patches after the second block teaches to read it.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import LlavaForConditionalGeneration, LlavaNextVideoForConditionalGeneration

from foveate.data.scenes.moving import FRAMES
from foveate.data.video import sampled
from foveate.reference.architecture import PATCHES, WIDTH, video_config
from reference_model.clip_dialogues import CLIP_KINDS
from reference_model.dialogues import PREFIX, Texts
from reference_model.language_training import LanguagePhase, LanguageTraining, relevant_first

TOKENS = FRAMES * PATCHES
_TIMED_BLOCK = 1
_SHARES = (0.05, 0.1, 0.2, 0.35)  # of the patches that are kept when some are dropped

CLIP_PHASES = (
    LanguagePhase(5, 80, Texts(dense=2), {"order": 0.85, "when": 0.85, "count": 0.75, "change": 0.85}),
    LanguagePhase(2, 250, Texts(dense=2)),
    LanguagePhase(3, None, Texts(dense=1)),
)


class ClipTraining(LanguageTraining):
    """A training of a LLaVA-NeXT-Video with its vision tower frozen."""

    patches = TOKENS
    kinds = CLIP_KINDS
    alignment = 0.1

    def __init__(
        self,
        model: LlavaNextVideoForConditionalGeneration,
        phases: tuple[LanguagePhase, ...] = CLIP_PHASES,
        learning_rate: float = 1e-3,
    ) -> None:
        super().__init__(model, phases, learning_rate)
        self.frame_of = nn.Linear(WIDTH, FRAMES)
        self._timed = torch.empty(0)
        self.llava.model.language_model.layers[_TIMED_BLOCK].register_forward_hook(self._remember)

    def _remember(self, block: nn.Module, arguments: tuple, states: Tensor) -> None:
        self._timed = states

    def _losses(
        self, batch: dict[str, Tensor], logits: Tensor, shown: Tensor, keep: Tensor, repack: bool
    ) -> dict[str, Tensor]:
        losses = super()._losses(batch, logits, shown, keep, repack)
        if not repack and keep.shape[1]:
            seen = self._timed[:, len(PREFIX) : len(PREFIX) + keep.shape[1]].float()
            losses["frame"] = 0.3 * F.cross_entropy(self.frame_of(seen).flatten(0, 1), keep.flatten() // PATCHES)
        return losses

    def _shown(self, batch: dict[str, Tensor]) -> tuple[Tensor, bool]:
        rows, repack = len(batch["ids"]), bool(torch.rand(()) < 0.3)
        if self.current.tokens is not None:
            return relevant_first(batch["roles"], batch["parts"], self.current.tokens), repack
        draw, tokens = float(torch.rand(())), int(TOKENS * _SHARES[int(torch.randint(len(_SHARES), ()))])
        if draw < 0.03:
            return torch.empty(rows, 0, dtype=torch.long), repack
        if draw < 0.30:
            return torch.rand(rows, TOKENS).topk(tokens, 1).indices.sort(1).values, repack
        if draw < 0.60:
            return relevant_first(batch["roles"], batch["parts"], tokens), repack
        if draw < 0.70:  # fewer frames, which a control shows
            frames = torch.tensor(sampled(FRAMES, int(torch.randint(2, FRAMES, ()))))
            keep = (frames[:, None] * PATCHES + torch.arange(PATCHES)).flatten()
            return keep.expand(rows, -1), True
        return torch.arange(TOKENS).expand(rows, -1), False


def video_model(llava: LlavaForConditionalGeneration) -> LlavaNextVideoForConditionalGeneration:
    """Returns a LLaVA-NeXT-Video with the weights of a LLaVA, and the mean embedding for its one new token."""
    model = LlavaNextVideoForConditionalGeneration(video_config(llava.config))
    weights = model.state_dict()
    for name, value in llava.state_dict().items():
        more = len(weights[name]) - len(value)
        weights[name] = torch.cat([value, value.mean(0, keepdim=True)]) if more else value
    model.load_state_dict(weights)
    return model
