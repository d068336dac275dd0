"""Answers to prompts without an image, by the stock model itself."""

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from foveate.functional.sequence import left_padded, positions
from foveate.models.loading.loaded_model import LoadedModel
from foveate.models.runtime.generation_config import greedily
from foveate.models.runtime.greedy import Answers, log_probability


@torch.inference_mode()
def answer_text(
    loaded: LoadedModel, prompts: Sequence[Sequence[int]], max_new_tokens: int, references: Sequence[Sequence[int]]
) -> Answers:
    """Returns the greedy answers of the stock `generate`, and the log-probability of the references.

    Args:
        loaded: The model.
        prompts: Token ids without image tokens.
        max_new_tokens: Longest answer.
        references: Reference answer of every prompt, including the end token.
    """
    model: Any = loaded.model
    inputs = loaded.batch(prompts)
    with greedily(model):
        output = model.generate(**inputs, max_new_tokens=max_new_tokens, pad_token_id=loaded.adapter.pad_token)
    new = output[:, inputs["input_ids"].shape[1] :].tolist()
    ends = frozenset(loaded.adapter.ends)
    answers = [tokens[: next((i for i, token in enumerate(tokens) if token in ends), None)] for tokens in new]
    return Answers(answers, text_likelihood(loaded, prompts, references))


@torch.inference_mode()
def text_likelihood(
    loaded: LoadedModel, prompts: Sequence[Sequence[int]], references: Sequence[Sequence[int]]
) -> Float[Tensor, " prompt"]:
    """Returns the log-probability of the reference answer to every prompt, by one pass of the stock model.

    Args:
        loaded: The model.
        prompts: Token ids without image tokens.
        references: Reference answer of every prompt, including the end token.
    """
    model: Any = loaded.model
    inputs = loaded.batch([[*prompt, *tokens[:-1]] for prompt, tokens in zip(prompts, references, strict=True)])
    tokens, real = left_padded(references, loaded.adapter.pad_token, loaded.device)
    mask = inputs["attention_mask"].bool()
    if loaded.adapter.position_axes == 1:  # models with several axes compute positions themselves
        inputs["position_ids"] = positions(mask)
    logits = model(**inputs, use_cache=False, logits_to_keep=tokens.shape[1]).logits
    return log_probability(logits.to(tokens.device), tokens, real)
