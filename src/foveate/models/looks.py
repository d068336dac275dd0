"""What an uncompressed model looks at while it reads a prompt and says a given answer, in all blocks and heads."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from foveate.core.needs import Role
from foveate.core.types import Compressed
from foveate.functional.attention import causal, mean_attention
from foveate.functional.sequence import left_padded, positions
from foveate.models.adapter import Adapter
from foveate.models.engine import embedded
from foveate.models.prompt_rows import asking
from foveate.models.responses import producing_rows


@dataclass(frozen=True, eq=False)
class Looks:
    """Attention to the patches: softmax rows over all keys that a token may see, not renormalised, float32.

    Attributes:
        last: Of the last prompt token.
        question: Mean over the tokens after the picture, as in `PromptRows`.
        every: Mean over all tokens of the prompt, the picture's own too, which see only earlier patches.
        response: Mean over the tokens that produce the answer, as in `ResponseRows`.
    """

    last: Float[Tensor, "prompt layer head patch"]
    question: Float[Tensor, "prompt layer head patch"]
    every: Float[Tensor, "prompt layer head patch"]
    response: Float[Tensor, "prompt layer head patch"]


class RowRecorder:
    """A listener to one pass of a causal language model: in every block, what chosen tokens look at on average.

    Beyond a few rows at a time nothing but the means is held.

    Args:
        real: Which tokens are no padding.
        weights: By name, how much each token counts in a mean; more than 0 in sum.
        keys: The tokens that are looked at; attention to others is left out and the rest not renormalised.
    """

    def __init__(
        self,
        real: Bool[Tensor, "batch token"],
        weights: Mapping[str, Float[Tensor, "batch token"]],
        keys: Int[Tensor, "batch kept"],
    ) -> None:
        self.real, self.weights, self.keys = real, weights, keys
        self._heard: dict[str, dict[int, Tensor]] = {name: {} for name in weights}

    def __call__(self, block: int, query: Tensor, key: Tensor, scaling: float) -> None:
        query, key = query.detach(), key.detach()
        for name, weight in self.weights.items():
            attention = self._mean(query, key, scaling, weight)
            self._heard[name][block] = attention.gather(2, self.keys[:, None].expand(-1, attention.shape[1], -1))

    def rows(self, name: str) -> Float[Tensor, "batch layer head kept"]:
        """The means of this name, one per block that was heard."""
        return torch.stack([rows for _, rows in sorted(self._heard[name].items())], 1)

    def _mean(
        self,
        query: Float[Tensor, "batch head token dim"],
        key: Float[Tensor, "batch key_head token dim"],
        scaling: float,
        weight: Float[Tensor, "batch token"],
    ) -> Float[Tensor, "batch head token"]:
        counted = weight.any(0).nonzero()[:, 0]
        places = torch.arange(int(counted[0]), int(counted[-1]) + 1, device=counted.device)
        chosen = slice(int(counted[0]), int(counted[-1]) + 1)
        return mean_attention(
            query[:, :, chosen], key, scaling, weight[:, chosen], lambda rows: causal(self.real, places[rows])
        )


@torch.inference_mode()
def looks(
    adapter: Adapter, prompts: Sequence[Sequence[int]], full: Compressed, answers: Sequence[Sequence[int]]
) -> Looks:
    """What the model looks at on its way through each prompt and the answer to it, in one pass.

    Args:
        adapter: Of the model.
        prompts: Full prompts of one image each.
        full: Uncompressed, one row per prompt.
        answers: What is said, be it the model's own words or not; an end token does not count.

    Raises:
        UnsupportedNeed: Its attention cannot be read.
    """
    adapter.decoder.check_readable()
    states, layout = embedded(adapter, prompts, full, repack=False)
    said = [[token for token in answer if token not in adapter.ends] for answer in answers]
    words, spoken = left_padded(
        [answer[: producing_rows(len(answer)) - 1] for answer in said], adapter.pad_token, states.device
    )
    states = torch.cat([states, adapter.inner.get_input_embeddings()(words)], 1)
    read, visual = layout.role != Role.PADDING, layout.role == Role.VISUAL
    real = torch.cat([read, spoken], 1)
    silent, last = torch.zeros_like(spoken), torch.zeros_like(read)
    last[:, -1] = True
    recorder = RowRecorder(
        real,
        {
            "last": torch.cat([last, silent], 1).float(),
            "question": torch.cat([asking(layout.role == Role.QUESTION), silent], 1),
            "every": torch.cat([read, silent], 1).float(),
            "response": torch.cat([last, spoken], 1).float(),
        },
        visual.nonzero()[:, 1].reshape(len(prompts), -1),
    )
    following = (layout.following[:, None] + positions(spoken)).expand(len(layout.position), -1, -1)
    position = torch.cat([layout.position, following], 2)
    deep: dict[str, Any] = {}
    if layout.deep:
        deep = {"visual_pos_masks": torch.cat([visual, silent], 1), "deepstack_visual_embeds": list(layout.deep)}
    with adapter.decoder.tapped(recorder):
        adapter.decoder.model(
            inputs_embeds=states,
            attention_mask=real.long(),
            position_ids=position if len(position) > 1 else position[0],
            use_cache=False,
            **deep,
        )
    return Looks(**{name: recorder.rows(name) for name in recorder.weights})
