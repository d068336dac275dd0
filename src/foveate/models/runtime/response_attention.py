"""Attention of an uncompressed model to the patches, from the prompt and from an answer, in all blocks and heads."""

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
from foveate.models.runtime.prompt_attention import query_weights


@dataclass(frozen=True, eq=False)
class AttentionMaps:
    """Attention to the patches: softmax rows over all keys that a token attends to, not renormalised, float32.

    Attributes:
        last: Row of the last prompt token.
        question: Mean over the tokens after the image, as in `PromptRows`.
        every: Mean over all tokens of the prompt; visual tokens attend only to earlier patches.
        response: Mean over the tokens that produce the answer, as in `ResponseRows`.
        answer: Mean over the answer's own tokens that produce a further one: `response` without the last prompt token.
            NaN for answers of fewer than two tokens.
        tokens: The row that produces each of the first tokens of the answer, averaged over blocks and heads; that of
            token 0 is the last prompt token's. NaN after the end of the answer.
    """

    last: Float[Tensor, "prompt layer head patch"]
    question: Float[Tensor, "prompt layer head patch"]
    every: Float[Tensor, "prompt layer head patch"]
    response: Float[Tensor, "prompt layer head patch"]
    answer: Float[Tensor, "prompt layer head patch"]
    tokens: Float[Tensor, "prompt token patch"]


class RowRecorder:
    """A listener to one pass of a causal language model that records weighted means of attention rows in every block.

    Memory holds the means and a few rows at a time, never the whole attention matrix.

    Args:
        real: Marks the tokens that are not padding.
        weights: Weight of each token in each mean, by name. A prompt whose weights are all 0 gets NaN; at least one
            prompt must have a positive weight.
        keys: The keys to record; attention to others is left out and the rest not renormalised.
        over_heads: Names of means that are also averaged over heads.
    """

    def __init__(
        self,
        real: Bool[Tensor, "batch token"],
        weights: Mapping[str, Float[Tensor, "batch token"]],
        keys: Int[Tensor, "batch kept"],
        over_heads: Collection[str] = (),
    ) -> None:
        self.real, self.weights, self.keys, self.over_heads = real, weights, keys, over_heads
        self._recorded: dict[str, dict[int, Tensor]] = {name: {} for name in weights}

    def __call__(self, block: int, query: Tensor, key: Tensor, scaling: float) -> None:
        query, key = query.detach(), key.detach()
        for name, weight in self.weights.items():
            attention = self._mean(query, key, scaling, weight)
            attention = attention.mean(1, keepdim=True) if name in self.over_heads else attention
            self._recorded[name][block] = attention.gather(2, self.keys[:, None].expand(-1, attention.shape[1], -1))

    def rows(self, name: str) -> Float[Tensor, "batch layer head kept"]:
        """Returns the means of this name, one per recorded block."""
        return torch.stack([rows for _, rows in sorted(self._recorded[name].items())], 1)

    def _mean(
        self,
        query: Float[Tensor, "batch head token dim"],
        key: Float[Tensor, "batch key_head token dim"],
        scaling: float,
        weight: Float[Tensor, "batch token"],
    ) -> Float[Tensor, "batch head token"]:
        counted = weight.any(0).nonzero()[:, 0]
        chosen = slice(int(counted[0]), int(counted[-1]) + 1)
        columns = torch.arange(chosen.start, chosen.stop, device=counted.device)
        return mean_attention(
            query[:, :, chosen], key, scaling, weight[:, chosen], lambda rows: causal(self.real, columns[rows])
        )


@torch.inference_mode()
def attention_maps(
    adapter: Adapter,
    prompts: Sequence[Sequence[int]],
    full: Compressed,
    answers: Sequence[Sequence[int]],
    tokens: int = 0,
) -> AttentionMaps:
    """Returns the attention to the patches during one pass over each prompt and a given answer to it.

    Args:
        adapter: The model's adapter.
        prompts: Full prompts of one image each.
        full: The uncompressed images, one row per prompt.
        answers: Tokens of the answers, which the model need not have generated; end tokens are ignored.
        tokens: Number of leading answer tokens that have rows of their own.

    Raises:
        UnsupportedNeed: The model's attention cannot be read.
    """
    adapter.decoder.check_readable()
    states, layout = embedded(adapter, prompts, full, repack=False)
    without_ends = [[token for token in answer if token not in adapter.ends] for answer in answers]
    words, answered = left_padded(
        [answer[: producing_rows(len(answer)) - 1] for answer in without_ends], adapter.pad_token, states.device
    )
    states = torch.cat([states, adapter.inner.get_input_embeddings()(words)], 1)
    visual = layout.role == Role.VISUAL
    real = torch.cat([layout.role != Role.PADDING, answered], 1)
    weights = _weights(layout.role, answered, tokens)
    columns, singles = visual.nonzero()[:, 1].reshape(len(prompts), -1), [name for name in weights if name.isdigit()]
    recorder = RowRecorder(real, weights, columns, singles)
    following = (layout.following[:, None] + positions(answered)).expand(len(layout.position), -1, -1)
    position = torch.cat([layout.position, following], 2)
    deep: dict[str, Any] = {}
    if layout.deepstack:
        masks = torch.cat([visual, torch.zeros_like(answered)], 1)
        deep = {"visual_pos_masks": masks, "deepstack_visual_embeds": list(layout.deepstack)}
    with adapter.decoder.tapped(recorder):
        adapter.decoder.model(
            inputs_embeds=states,
            attention_mask=real.long(),
            position_ids=position if len(position) > 1 else position[0],
            use_cache=False,
            **deep,
        )
    means = {name: recorder.rows(name) for name in weights if name not in singles}
    rows = torch.full((len(prompts), tokens, columns.shape[1]), torch.nan, device=states.device)
    for name in singles:
        rows[:, int(name)] = recorder.rows(name).mean((1, 2))
    return AttentionMaps(**{"answer": torch.full_like(means["last"], torch.nan), **means}, tokens=rows)


def _weights(
    role: Int[Tensor, "prompt token"], answered: Bool[Tensor, "prompt word"], tokens: int
) -> dict[str, Float[Tensor, "prompt every"]]:
    """Returns the weights of the tokens of prompt and answer in each mean; single tokens are named by their number.

    A mean in which no prompt has a token is left out.

    Args:
        role: Roles of the prompts' tokens.
        answered: Marks the answer tokens that are not padding.
        tokens: Number of leading answer tokens that have rows of their own.
    """
    no_answer, last = torch.zeros_like(answered), torch.zeros_like(role, dtype=torch.bool)
    last[:, -1] = True
    no_prompt, number = torch.zeros_like(last), positions(answered)
    weights = {
        "last": torch.cat([last, no_answer], 1).float(),
        "question": torch.cat([query_weights(role == Role.QUESTION), no_answer], 1),
        "every": torch.cat([role != Role.PADDING, no_answer], 1).float(),
        "response": torch.cat([last, answered], 1).float(),
        "answer": torch.cat([no_prompt, answered], 1).float(),
    }
    singles = {"0": weights["last"]} | {
        str(token): torch.cat([no_prompt, answered & (number == token - 1)], 1).float() for token in range(1, tokens)
    }
    weights |= dict(list(singles.items())[:tokens])
    return {name: weight for name, weight in weights.items() if weight.any()}


@torch.inference_mode()
def response_rows(
    adapter: Adapter, prompts: Sequence[Sequence[int]], full: Compressed, need: ResponseRows, max_new_tokens: int = 32
) -> Tensor:
    """Returns the answer to `ResponseRows`: (prompt, layer, head, patch).

    Args:
        adapter: The model's adapter.
        prompts: Full prompts of one image each.
        full: The uncompressed images, one row per prompt.
        need: Names the blocks.
        max_new_tokens: Longest answer.

    Raises:
        UnsupportedNeed: The model's attention cannot be read.
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

        def add_rows(rows: Sequence[int], ended: Sequence[bool]) -> None:
            real = blocks.pruning.segments[0].real[:, None, None]
            attention = torch.stack([attention_rows(*latest[block], real)[:, :, 0] for block in wanted], 1)
            for i, (row, last) in enumerate(zip(rows, ended, strict=True)):
                if counts[row] < producing_rows(counts[row] + (not last)):
                    sums[row] = sums[row] + attention[i][..., visual[row]]
                    counts[row] += 1

        greedy(adapter, blocks, adapter.decoder.logits(states[:, -1]), [[] for _ in prompts], max_new_tokens, add_rows)
    return torch.stack([total / count for total, count in zip(sums, counts, strict=True)])


def producing_rows(length: int) -> int:
    """Returns the number of rows that produce an answer of `length` tokens.

    These are the rows of the last prompt token and of all answer tokens but the last. An empty answer has one row,
    which produces its end token.
    """
    return max(length, 1)
