"""Attention that prompts pay inside the language model, between two cuts."""

from dataclasses import dataclass, fields
from functools import cached_property

import torch
from jaxtyping import Float
from torch import Tensor

from foveate.core.needs import PromptRows, Role
from foveate.functional.attention import causal, mean_attention
from foveate.functional.sequence import padded_index
from foveate.models.backbone.decoder import Decoder


@dataclass(frozen=True, eq=False)
class Tokens:
    """The sequence between two cuts.

    Attributes:
        role: (batch, token) a `Role`.
        place: (batch, token) of visual tokens the patch.
        position: (axis, batch, token) what the rotary embedding is given.
        rater: (batch, token) weight of each token as a query of "raters".
    """

    role: Tensor
    place: Tensor
    position: Tensor
    rater: Tensor

    def to(self, device: torch.device) -> "Tokens":
        """The same on a device."""
        if self.role.device == device:
            return self
        return Tokens(*(getattr(self, field.name).to(device) for field in fields(self)))

    @cached_property
    def visual(self) -> tuple[Tensor, Tensor]:
        return padded_index(self.role == Role.VISUAL)

    @property
    def real(self) -> Tensor:
        return self.role != Role.PADDING

    @property
    def visible(self) -> Tensor:
        """(batch,) how many tokens of the image each prompt has, separators too."""
        return ((self.role == Role.VISUAL) | (self.role == Role.SEPARATOR)).sum(1)

    @property
    def allowed(self) -> Tensor:
        """(batch, query, key) bool."""
        return causal(self.real, torch.arange(self.role.shape[1], device=self.role.device))


def prompt_rows(
    decoder: Decoder, tokens: Tokens, need: PromptRows, query: Tensor, key: Tensor, scaling: float
) -> Float[Tensor, "batch head patch"]:
    """The answer to a need, from a block's queries and keys.

    Args:
        decoder: The language model.
        tokens: The sequence that the block was given.
        need: Which rows, and over what.
        query: Of all tokens.
        key: Likewise.
        scaling: What the block multiplies their products with.
    """
    tokens = tokens.to(query.device)  # models may lie on several
    match need.query:
        case "last":
            rows = slice(-1, None)
            weight = torch.ones(len(query), 1, device=query.device)
        case "mean":
            rows, weight = slice(None), asking(tokens.role == Role.QUESTION)
        case "raters":
            rows, weight = slice(None), tokens.rater
        case "all":
            rows, weight = slice(None), tokens.real.float()
    if rows == slice(None) and need.query != "all":  # the question stands at the end
        rows = slice(int(weight.any(0).float().argmax()), None)
        weight = weight[:, rows]
    allowed = tokens.allowed[:, rows]
    if need.over == "patches":
        allowed = allowed & (tokens.role == Role.VISUAL)[:, None]
    divisor = _positional_bias(decoder, tokens, query, scaling)[:, rows] if need.debiased else None
    attention = mean_attention(query[:, :, rows], key, scaling, weight, allowed, divisor)
    index, _ = tokens.visual
    return attention.gather(2, index[:, None].expand(-1, attention.shape[1], -1))


def raters(states: Tensor, tokens: Tokens) -> Tensor:
    """Weight 1 for the question's tokens to which the image is more alike than on average.

    For each visual token the softmax over the question of its product with them; its mean over visual tokens.
    """
    question, visual = tokens.role == Role.QUESTION, tokens.role == Role.VISUAL
    logits = (states @ states.transpose(1, 2)).float().masked_fill(~question[:, None], -torch.inf)
    alike = (logits.softmax(2) * visual[..., None]).sum(1) / visual.sum(1, keepdim=True)
    chosen = question & (alike > 1 / question.sum(1, keepdim=True))
    return asking(torch.where(chosen.any(1, keepdim=True), chosen, question))


def asking(tokens: Tensor) -> Tensor:
    """Weight 1 for these tokens of each prompt, or for the last one where there are none."""
    weight = tokens.float()
    weight[:, -1] = torch.where(tokens.any(1), weight[:, -1], 1)
    return weight


def rotated(x: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
    """(batch, head, token, dim) turned by rotary positions; with the negative sine turned back."""
    first, second = x.chunk(2, -1)
    turned = x * cosine[:, None] + torch.cat([-second, first], -1) * sine[:, None]
    return turned.to(x.dtype)


def _positional_bias(decoder: Decoder, tokens: Tokens, query: Tensor, scaling: float) -> Tensor:
    """(batch, query, key) logits of a query and a key of ones."""
    ones = torch.ones_like(query[:, :1])
    turned = rotated(ones, *decoder.rotation(query, tokens.position))[:, 0].float()
    return turned @ turned.transpose(1, 2) * scaling
