"""The attention that answers pay while the model gives them."""

from collections.abc import Sequence

import torch
from torch import Tensor

from foveate.core.needs import ResponseRows, Role, resolve_layer
from foveate.core.types import Compressed
from foveate.functional.attention import attention_rows
from foveate.models.adapter import Adapter
from foveate.models.engine import prompted
from foveate.models.greedy import greedy


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
            real = blocks.cutting.segments[0].real[:, None, None]
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
