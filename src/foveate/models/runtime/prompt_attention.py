"""Attention from prompts to visual tokens inside the language model, between two cuts."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from foveate.core.needs import PromptRows, Role
from foveate.core.transfer import on_device
from foveate.functional.attention import causal, mean_attention, mean_greatest_attention
from foveate.functional.matching import rows_at
from foveate.functional.sequence import padded_index
from foveate.models.backbone.decoder import Decoder, Extent


@dataclass(frozen=True, eq=False)
class Tokens:
    """The token sequence between two cuts.

    Attributes:
        role: (batch, token) each token's `Role`.
        patch: (batch, token) the patch of each visual token; see `Layout`.
        position: (axis, batch, token) the position that the rotary embedding receives.
        rater: (batch, token) weight of each token as a query of "raters".
        extent: What the host knows of the sequence.
    """

    role: Tensor
    patch: Tensor
    position: Tensor
    rater: Tensor
    extent: Extent

    def each(self, change: Callable[[Tensor], Tensor]) -> "Tokens":
        """Returns the sequence with all tensors changed."""
        return Tokens(
            change(self.role), change(self.patch), change(self.position), change(self.rater), extent=self.extent
        )

    def to(self, device: torch.device) -> "Tokens":
        """Returns the sequence on a device."""
        return self if self.role.device == device else self.each(lambda values: on_device(values, device))

    @cached_property
    def visual(self) -> tuple[Tensor, Tensor]:
        """The columns of the visual tokens of each prompt, and a mask of those that are not padding."""
        return padded_index(self.role == Role.VISUAL, self.extent.visual)

    @property
    def real(self) -> Tensor:
        return self.role != Role.PADDING

    @property
    def image_tokens(self) -> Tensor:
        """(batch,) number of visual tokens and separators of each prompt."""
        return ((self.role == Role.VISUAL) | (self.role == Role.SEPARATOR)).sum(1)


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
            first, weight = query.shape[2] - 1, torch.ones_like(tokens.rater)
        case "mean":
            first, weight = tokens.extent.first_question, query_weights(tokens.role == Role.QUESTION)
        case "raters":
            first, weight = tokens.extent.first_question, tokens.rater
        case "visual":
            first, weight = tokens.extent.first_visual, (tokens.role == Role.VISUAL).float()
        case "all":
            first, weight = 0, tokens.real.float()
    column = torch.arange(first, query.shape[2], device=query.device)
    keys = tokens.role == Role.VISUAL if need.over == "patches" else tokens.real

    def allowed(rows: slice) -> Tensor:  # for some rows at a time, as masks of all of them are large
        return causal(keys, column[rows])

    divisor = _positional_bias(decoder, tokens, query, scaling, first) if need.debiased else None
    mean = mean_greatest_attention if need.heads == "max" else mean_attention
    attention = mean(query[:, :, first:], key, scaling, weight[:, first:], allowed, divisor)
    index, _ = tokens.visual
    return attention.gather(2, index[:, None].expand(-1, attention.shape[1], -1))


def raters(states: Tensor, tokens: Tokens) -> Tensor:
    """Returns weight 1 for the question's tokens whose similarity to the image is above average.

    The similarity of a question token is the softmax over the question of its product with a visual token, averaged
    over visual tokens.
    """
    question, (index, real), first = tokens.role == Role.QUESTION, tokens.visual, tokens.extent.first_question
    marked = question[:, first:]
    logits = (rows_at(states, index) @ states[:, first:].mT).float().masked_fill(~marked[:, None], -torch.inf)
    similarity = (logits.softmax(2) * real[..., None]).sum(1) / real.sum(1, keepdim=True)
    chosen = marked & (similarity > 1 / marked.sum(1, keepdim=True))
    chosen = F.pad(torch.where(chosen.any(1, keepdim=True), chosen, marked), (first, 0))
    return query_weights(chosen)


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


def _positional_bias(
    decoder: Decoder, tokens: Tokens, query: Tensor, scaling: float, first: int
) -> Callable[[slice], Tensor]:
    """Returns a function of some queries, counted from `first`, to (batch, query, key) logits of all-ones vectors."""
    ones = torch.ones_like(query[:, :1])
    turned = rotated(ones, *decoder.rotation(query, tokens.position))[:, 0].float()
    return lambda rows: turned[:, first:][:, rows] @ turned.mT * scaling
