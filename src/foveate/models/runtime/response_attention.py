"""What an uncompressed model looks at while it reads a prompt and says a given answer, in all blocks and heads."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from foveate.core.compression import Compressed
from foveate.core.layers import resolve_layer
from foveate.core.needs import ResponseRows, Role
from foveate.functional.attention import attention_rows, causal, mean_attention
from foveate.functional.sequence import left_padded, positions
from foveate.models.backbone.adapter import Adapter
from foveate.models.runtime.generation import embedded, prompted
from foveate.models.runtime.greedy import greedy
from foveate.models.runtime.prompt_attention import asking


@dataclass(frozen=True, eq=False)
class AttentionMaps:
    """Attention to the patches: softmax rows over all keys that a token may see, not renormalised, float32.

    Attributes:
        last: Of the last prompt token.
        question: Mean over the tokens after the image, as in `PromptRows`.
        every: Mean over all tokens of the prompt, the image's own too, which see only earlier patches.
        response: Mean over the tokens that produce the answer, as in `ResponseRows`.
        answer: Mean over the answer's own tokens that produce a further one: `response` without the last prompt token.
            NaN where the answer has fewer than two tokens.
        tokens: The rows that produce the first tokens of the answer, one by one, each averaged over blocks and heads;
            that of token 0 is the last prompt token's. NaN behind the end of the answer.
    """

    last: Float[Tensor, "prompt layer head patch"]
    question: Float[Tensor, "prompt layer head patch"]
    every: Float[Tensor, "prompt layer head patch"]
    response: Float[Tensor, "prompt layer head patch"]
    answer: Float[Tensor, "prompt layer head patch"]
    tokens: Float[Tensor, "prompt token patch"]


class RowRecorder:
    """A listener to one pass of a causal language model: in every block, what chosen tokens look at on average.

    Beyond a few rows at a time nothing but the means is held.

    Args:
        real: Which tokens are no padding.
        weights: By name, how much each token counts in a mean. Where all of a prompt's weights are 0, its mean is NaN;
            some prompt must have one above 0.
        keys: The tokens that are looked at; attention to others is left out and the rest not renormalised.
        over_heads: Names whose rows are averaged over heads, so that only one row per block is held.
    """

    def __init__(
        self,
        real: Bool[Tensor, "batch token"],
        weights: Mapping[str, Float[Tensor, "batch token"]],
        keys: Int[Tensor, "batch kept"],
        over_heads: Collection[str] = (),
    ) -> None:
        self.real, self.weights, self.keys, self.over_heads = real, weights, keys, over_heads
        self._heard: dict[str, dict[int, Tensor]] = {name: {} for name in weights}

    def __call__(self, block: int, query: Tensor, key: Tensor, scaling: float) -> None:
        query, key = query.detach(), key.detach()
        for name, weight in self.weights.items():
            attention = self._mean(query, key, scaling, weight)
            attention = attention.mean(1, keepdim=True) if name in self.over_heads else attention
            self._heard[name][block] = attention.gather(2, self.keys[:, None].expand(-1, attention.shape[1], -1))

    def rows(self, name: str) -> Float[Tensor, "batch layer head kept"]:
        """Returns the means of this name, one per block that was heard."""
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
def attention_maps(
    adapter: Adapter,
    prompts: Sequence[Sequence[int]],
    full: Compressed,
    answers: Sequence[Sequence[int]],
    tokens: int = 0,
) -> AttentionMaps:
    """Returns what the model looks at on its way through each prompt and the answer to it, in one pass.

    Args:
        adapter: Of the model.
        prompts: Full prompts of one image each.
        full: Uncompressed, one row per prompt.
        answers: What is said, be it the model's own words or not; an end token does not count.
        tokens: How many tokens of an answer have rows of their own.

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
    visual = layout.role == Role.VISUAL
    real = torch.cat([layout.role != Role.PADDING, spoken], 1)
    weights = _weights(layout.role, spoken, tokens)
    places, singles = visual.nonzero()[:, 1].reshape(len(prompts), -1), [name for name in weights if name.isdigit()]
    recorder = RowRecorder(real, weights, places, singles)
    following = (layout.following[:, None] + positions(spoken)).expand(len(layout.position), -1, -1)
    position = torch.cat([layout.position, following], 2)
    deep: dict[str, Any] = {}
    if layout.deepstack:
        masks = torch.cat([visual, torch.zeros_like(spoken)], 1)
        deep = {"visual_pos_masks": masks, "deepstack_visual_embeds": list(layout.deepstack)}
    with adapter.decoder.tapped(recorder):
        adapter.decoder.model(
            inputs_embeds=states,
            attention_mask=real.long(),
            position_ids=position if len(position) > 1 else position[0],
            use_cache=False,
            **deep,
        )
    found = {name: recorder.rows(name) for name in weights if name not in singles}
    rows = torch.full((len(prompts), tokens, places.shape[1]), torch.nan, device=states.device)
    for name in singles:
        rows[:, int(name)] = recorder.rows(name).mean((1, 2))
    return AttentionMaps(**{"answer": torch.full_like(found["last"], torch.nan), **found}, tokens=rows)


def _weights(
    role: Int[Tensor, "prompt token"], spoken: Bool[Tensor, "prompt word"], tokens: int
) -> dict[str, Float[Tensor, "prompt every"]]:
    """Returns the weights of the tokens of prompt and answer in each mean; the rows of single tokens have numbers.

    A name of which no prompt has a token is left out.
    """
    silent, last = torch.zeros_like(spoken), torch.zeros_like(role, dtype=torch.bool)
    last[:, -1] = True
    nothing, number = torch.zeros_like(last), positions(spoken)
    weights = {
        "last": torch.cat([last, silent], 1).float(),
        "question": torch.cat([asking(role == Role.QUESTION), silent], 1),
        "every": torch.cat([role != Role.PADDING, silent], 1).float(),
        "response": torch.cat([last, spoken], 1).float(),
        "answer": torch.cat([nothing, spoken], 1).float(),
    }
    singles = {"0": weights["last"]} | {
        str(token): torch.cat([nothing, spoken & (number == token - 1)], 1).float() for token in range(1, tokens)
    }
    weights |= dict(list(singles.items())[:tokens])
    return {name: weight for name, weight in weights.items() if weight.any()}


@torch.inference_mode()
def response_rows(
    adapter: Adapter, prompts: Sequence[Sequence[int]], full: Compressed, need: ResponseRows, max_new_tokens: int = 32
) -> Tensor:
    """(prompt, layer, head, patch): see `ResponseRows`.

    Args:
        adapter: Of the model.
        prompts: Full prompts of one image each.
        full: Uncompressed, one row per prompt.
        need: The blocks.
        max_new_tokens: Longest answer.

    Raises:
        UnsupportedNeed: Its attention cannot be read.
    """
    adapter.decoder.check_readable()
    depth = adapter.decoder.depth
    wanted = [resolve_layer(layer, depth, "language model") for layer in need.layers or range(depth)]
    latest: dict[int, tuple[Tensor, Tensor, float]] = {}

    def listen(block: int, query: Tensor, key: Tensor, scaling: float) -> None:
        if block in wanted:
            latest[block] = query[:, :, -1:], key, scaling

    with adapter.decoder.tapped(listen):
        blocks, states = prompted(adapter, prompts, full, False, ())
        visual = (blocks.layout.role == Role.VISUAL).nonzero()[:, 1].reshape(len(prompts), -1)
        sums: list[Tensor] = [torch.zeros(())] * len(prompts)
        counts = [0] * len(prompts)

        def note(rows: Tensor, ended: Tensor) -> None:
            real = blocks.pruning.segments[0].real[:, None, None]
            seen = torch.stack([attention_rows(*latest[block], real)[:, :, 0] for block in wanted], 1)
            for i, (row, last) in enumerate(zip(rows.tolist(), ended.tolist(), strict=True)):
                if counts[row] < producing_rows(counts[row] + (not last)):
                    sums[row] = sums[row] + seen[i][..., visual[row]]
                    counts[row] += 1

        greedy(adapter, blocks, adapter.decoder.logits(states[:, -1]), [[] for _ in prompts], max_new_tokens, note)
    return torch.stack([total / count for total, count in zip(sums, counts, strict=True)])


def producing_rows(length: int) -> int:
    """How many rows produce an answer of so many tokens.

    They are those of the last prompt token and of all tokens of the answer but the last; of an empty answer, that which
    produces its end token.
    """
    return max(length, 1)
