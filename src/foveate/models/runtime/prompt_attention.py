"""Attention from prompts to visual tokens inside the language model, between two cuts."""

from dataclasses import dataclass, fields
from functools import cached_property

import torch
from jaxtyping import Float
from torch import Tensor

from foveate.core.needs import PromptRows, Role
from foveate.functional.attention import causal, mean_attention, mean_greatest_attention
from foveate.functional.sequence import padded_index
from foveate.models.backbone.decoder import Decoder


@dataclass(frozen=True, eq=False)
class Tokens:
    """The token sequence between two cuts.

    Attributes:
        role: (batch, token) each token's `Role`.
        patch: (batch, token) the patch of each visual token; see `Layout`.
        position: (axis, batch, token) the position that the rotary embedding receives.
        rater: (batch, token) weight of each token as a query of "raters".
    """

    role: Tensor
    patch: Tensor
    position: Tensor
    rater: Tensor

    def to(self, device: torch.device) -> "Tokens":
        """Returns the sequence on a device."""
        if self.role.device == device:
            return self
        return Tokens(*(getattr(self, field.name).to(device) for field in fields(self)))

    @cached_property
    def visual(self) -> tuple[Tensor, Tensor]:
        """The columns of the visual tokens of each prompt, and a mask of those that are not padding."""
        return padded_index(self.role == Role.VISUAL)

    @property
    def real(self) -> Tensor:
        return self.role != Role.PADDING

    @property
    def image_tokens(self) -> Tensor:
        """(batch,) number of visual tokens and separators of each prompt."""
        return ((self.role == Role.VISUAL) | (self.role == Role.SEPARATOR)).sum(1)

    @property
    def allowed(self) -> Tensor:
        """(batch, query, key) bool, whether a query attends to a key."""
        return causal(self.real, torch.arange(self.role.shape[1], device=self.role.device))


def prompt_rows(
    decoder: Decoder, tokens: Tokens, need: PromptRows, query: Tensor, key: Tensor, scaling: float
) -> Float[Tensor, "batch head patch"]:
    """Returns the answer to a need from a block's queries and keys.

    Args:
        decoder: The language model.
        tokens: The sequence that the block received.
        need: The rows to return, and the keys of their softmax.
        query: Queries of all tokens.
        key: Keys of all tokens.
        scaling: Factor of the products of query and key.
    """
    tokens = tokens.to(query.device)  # blocks may be on different devices
    match need.query:
        case "last":
            rows = slice(-1, None)
            weight = torch.ones(len(query), 1, device=query.device)
        case "mean":
            rows, weight = slice(None), query_weights(tokens.role == Role.QUESTION)
        case "raters":
            rows, weight = slice(None), tokens.rater
        case "visual":
            rows, weight = slice(None), (tokens.role == Role.VISUAL).float()
        case "all":
            rows, weight = slice(None), tokens.real.float()
    if rows == slice(None) and need.query != "all":  # skips the tokens before the first query
        rows = slice(int(weight.any(0).float().argmax()), None)
        weight = weight[:, rows]
    allowed = tokens.allowed[:, rows]
    if need.over == "patches":
        allowed = allowed & (tokens.role == Role.VISUAL)[:, None]
    divisor = _positional_bias(decoder, tokens, query, scaling)[:, rows] if need.debiased else None
    mean = mean_greatest_attention if need.heads == "max" else mean_attention
    attention = mean(query[:, :, rows], key, scaling, weight, allowed, divisor)
    index, _ = tokens.visual
    return attention.gather(2, index[:, None].expand(-1, attention.shape[1], -1))


def raters(states: Tensor, tokens: Tokens) -> Tensor:
    """Returns weight 1 for the question's tokens whose similarity to the image is above average.

    The similarity of a question token is the softmax over the question of its product with a visual token, averaged
    over visual tokens.
    """
    question, visual = tokens.role == Role.QUESTION, tokens.role == Role.VISUAL
    logits = (states @ states.transpose(1, 2)).float().masked_fill(~question[:, None], -torch.inf)
    similarity = (logits.softmax(2) * visual[..., None]).sum(1) / visual.sum(1, keepdim=True)
    chosen = question & (similarity > 1 / question.sum(1, keepdim=True))
    return query_weights(torch.where(chosen.any(1, keepdim=True), chosen, question))


def query_weights(tokens: Tensor) -> Tensor:
    """Returns weight 1 for the marked tokens of each prompt, or for the last token if none is marked."""
    weight = tokens.float()
    weight[:, -1] = torch.where(tokens.any(1), weight[:, -1], 1)
    return weight


def rotated(x: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
    """Applies rotary positions to (batch, head, token, dim); the negative sine reverts them."""
    first, second = x.chunk(2, -1)
    turned = x * cosine[:, None] + torch.cat([-second, first], -1) * sine[:, None]
    return turned.to(x.dtype)


def _positional_bias(decoder: Decoder, tokens: Tokens, query: Tensor, scaling: float) -> Tensor:
    """Returns (batch, query, key) logits of all-ones queries and keys."""
    ones = torch.ones_like(query[:, :1])
    turned = rotated(ones, *decoder.rotation(query, tokens.position))[:, 0].float()
    return turned @ turned.transpose(1, 2) * scaling
