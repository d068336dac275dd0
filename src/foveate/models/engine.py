"""Greedy answers to many questions about few pictures: each picture's keys and values are computed once."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import DynamicCache

from foveate.core.types import Compression
from foveate.functional.sequence import positions
from foveate.models.llava import Llava


@dataclass(frozen=True, eq=False)
class Conversation:
    """A picture and the questions about it, as token ids.

    Attributes:
        prefix: Everything up to and including the last image token; the same for all questions.
        suffixes: The rest of each prompt.
    """

    prefix: Sequence[int]
    suffixes: Sequence[Sequence[int]]

    @classmethod
    def from_prompts(cls, prompts: Sequence[Sequence[int]], image_token: int) -> "Conversation":
        """Splits full prompts after the picture.

        Raises:
            ValueError: The prompts differ before the end of the picture, so that nothing can be shared.
        """
        cut = len(prompts[0]) - list(reversed(prompts[0])).index(image_token)
        if any(list(prompt[:cut]) != list(prompts[0][:cut]) for prompt in prompts):
            raise ValueError("prompts about one picture must be equal up to the end of the picture")
        return cls(prompts[0][:cut], [prompt[cut:] for prompt in prompts])


@torch.inference_mode()
def answer(
    llava: Llava,
    conversations: Sequence[Conversation],
    features: Tensor,
    compression: Compression,
    repack: bool,
    max_new_tokens: int,
) -> list[list[int]]:
    """New tokens for every question, conversation by conversation, without the end token.

    Args:
        llava: The model.
        conversations: One per picture.
        features: (picture, patch, dim) before the projector.
        compression: One row per picture.
        repack: See `Llava.compressed_inputs`.
        max_new_tokens: Longest answer.
    """
    device = features.device
    ids, mask = _left_padded([c.prefix for c in conversations], llava.pad_token, device)
    inputs = llava.compressed_inputs({"input_ids": ids, "attention_mask": mask.long()}, features, compression, repack)
    cache = DynamicCache(config=llava.text_config)
    llava.inner(**inputs, past_key_values=cache, use_cache=True)
    owner = torch.tensor([i for i, c in enumerate(conversations) for _ in c.suffixes], device=device)
    cache.batch_select_indices(owner)
    seen = inputs["attention_mask"].bool()[owner]
    tokens, real = _left_padded([s for c in conversations for s in c.suffixes], llava.pad_token, device)
    following = (inputs["position_ids"].amax(1) + 1 if repack else mask.sum(1))[owner]
    return _decode(llava, cache, seen, tokens, real, following, max_new_tokens)


def _decode(
    llava: Llava, cache: DynamicCache, seen: Tensor, tokens: Tensor, real: Tensor, following: Tensor, limit: int
) -> list[list[int]]:
    ends = llava.model.generation_config.eos_token_id
    ends = torch.tensor([ends] if isinstance(ends, int) else ends, device=tokens.device)
    answers: list[list[int]] = [[] for _ in tokens]
    rows = torch.arange(len(tokens), device=tokens.device)
    for _ in range(limit):
        seen = torch.cat([seen, real], 1)
        states = llava.language_model(
            input_ids=tokens,
            attention_mask=seen.long(),
            position_ids=following[:, None] + positions(real),
            past_key_values=cache,
            use_cache=True,
        ).last_hidden_state
        chosen = llava.model.lm_head(states[:, -1]).argmax(-1)
        open_ = ~torch.isin(chosen, ends)
        for row, token in zip(rows[open_].tolist(), chosen[open_].tolist(), strict=True):
            answers[row].append(token)
        if not open_.any():
            break
        following = following + real.sum(1)
        if not open_.all():
            cache.batch_select_indices(open_.nonzero()[:, 0])
            rows, seen, following, chosen = rows[open_], seen[open_], following[open_], chosen[open_]
        tokens = chosen[:, None]
        real = torch.ones_like(tokens, dtype=torch.bool)
    return answers


def _left_padded(rows: Sequence[Sequence[int]], pad: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """(row, token) ids and which of them are real."""
    longest = max(map(len, rows))
    ids = torch.tensor([[pad] * (longest - len(row)) + list(row) for row in rows], device=device)
    real = torch.tensor([[False] * (longest - len(row)) + [True] * len(row) for row in rows], device=device)
    return ids, real
