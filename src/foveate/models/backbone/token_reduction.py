"""A CLIP-like vision tower, run block by block while a `Reduction` drops or merges tokens."""

from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from foveate.core.arrangement import Grid
from foveate.core.checks import checked_step, reads_values
from foveate.core.compression import Block, Compression
from foveate.core.contracts import Reduction
from foveate.core.errors import FoveateError, LayerError, UnsupportedNeed
from foveate.core.trace import EXTRA, PADDING
from foveate.functional.mixing import unit_rows
from foveate.functional.ranking import open_ended
from foveate.models.backbone.internals import internal
from foveate.models.backbone.pixels import pair

_BLOCKS = ("models.clip.modeling_clip.CLIPEncoderLayer", "models.siglip.modeling_siglip.SiglipEncoderLayer")


def reduced(
    tower: nn.Module,
    pixels: Float[Tensor, "image channel height width"],
    reduction: Reduction,
    keep: int,
    feature_layer: int,
    has_cls: bool,
) -> tuple[Float[Tensor, "image token dim"], Compression]:
    """Returns the features of the remaining patches, without [CLS], and the compression that they result from.

    Attention is computed by `scaled_dot_product_attention`, whatever the tower is configured with: no other kernel
    takes the bias that padding and proportional attention need.

    Args:
        tower: CLIP's or SigLIP's vision model.
        pixels: The pixels that the tower receives.
        reduction: Drops or merges tokens in each block.
        keep: Number of patches to keep.
        feature_layer: The block (0-based) whose output are the features; later ones are not run.
        has_cls: Whether the tower's first token is [CLS].

    Returns:
        The features, tokens in raster order of their origins, and the compression over the original patches. The
        compression states the patches of each token; it cannot be applied to the features of the whole tower, because
        later blocks attended to fewer tokens.

    Raises:
        UnsupportedNeed: The reduction needs [CLS] and the tower has none, or the tower's blocks are not supported.
        LayerError: No block runs before the features are written.
        FoveateError: The reduction returned an invalid compression, or kept another number of patches.
    """
    if feature_layer < 0:
        raise LayerError(f"{reduction}: the features are written before block 0, so no block drops or merges patches")
    if reduction.needs_cls and not has_cls:
        name = type(tower).__name__
        raise UnsupportedNeed(f"{reduction} reads the attention of [CLS], but {name} has none: use another reduction")
    transformer: Any = getattr(tower, "vision_model", tower)
    kind = type(transformer.encoder.layers[0])
    if kind not in map(internal, _BLOCKS):
        raise UnsupportedNeed(
            f"{reduction} supports the blocks of CLIP and SigLIP, not {kind.__name__}: use a method that compresses "
            "after the tower"
        )
    states = patch_embeddings(transformer, pixels)
    original = states.shape[1]
    grid = Grid(*(size // transformer.config.patch_size for size in pixels.shape[-2:]))
    total = Compression(torch.arange(original, device=states.device).expand(len(states), -1))
    carried: Tensor | None = None
    for number, layer in enumerate(transformer.encoder.layers[: feature_layer + 1]):
        normed = layer.layer_norm1(states)
        query, key, value = _heads(layer.self_attn, normed)
        scaling = layer.self_attn.head_dim**-0.5
        size = total.size
        block = Block(number, feature_layer, keep, query, key, value, scaling, total.real, size, has_cls, grid)
        bias = _bias(total.real, size if reduction.proportional else None, states.dtype)
        mixed = F.scaled_dot_product_attention(query, key, value, bias, scale=scaling)
        states = states + layer.self_attn.out_proj(mixed.transpose(1, 2).flatten(2))
        step, carried = checked_step(reduction.reduce(block, carried), reduction, block)
        states = step.apply(states) if reduction.before_mlp else states
        states = states + layer.mlp(layer.layer_norm2(states))
        states = states if reduction.before_mlp else step.apply(states)
        total = _composed(total, step, original)
    return _patches(states, total, has_cls, reduction, keep)


def patch_embeddings(
    transformer: Any,  # noqa: ANN401 (CLIP, SigLIP)
    pixels: Tensor,
) -> Float[Tensor, "image token dim"]:
    """Returns the input of the first block of CLIP's or SigLIP's tower.

    Positions are interpolated for pixels of another size than the tower's own.
    """
    own = pair(transformer.embeddings.image_size)
    states = transformer.embeddings(pixels, interpolate_pos_encoding=tuple(pixels.shape[-2:]) != own)
    return transformer.pre_layrnorm(states) if hasattr(transformer, "pre_layrnorm") else states


def _heads(attention: Any, states: Tensor) -> tuple[Tensor, Tensor, Tensor]:  # noqa: ANN401 (CLIP, SigLIP)
    """Returns query, key and value: (batch, head, token, dim)."""

    def split(projected: Tensor) -> Tensor:
        return projected.unflatten(-1, (-1, attention.head_dim)).transpose(1, 2)

    return split(attention.q_proj(states)), split(attention.k_proj(states)), split(attention.v_proj(states))


def _bias(
    real: Bool[Tensor, "batch token"], size: Int[Tensor, "batch token"] | None, dtype: torch.dtype
) -> Float[Tensor, "batch 1 1 token"] | None:
    """Returns the bias of attention logits: -inf for padding, log n for a token that stands for n."""
    weight = real.long() if size is None else size * real
    if not open_ended(weight) and (weight == 1).all():
        return None
    return weight.log().to(dtype)[:, None, None]


def _composed(first: Compression, then: Compression, sources: int) -> Compression:
    """Returns one compression of `sources` that equals two in sequence."""
    origin = torch.where(then.origin < 0, then.origin, first.origin.gather(1, then.origin.clamp(min=0)))
    if first.mixing is None and then.mixing is None:
        return Compression(origin)
    return Compression(origin, then.apply(unit_rows(first.origin, sources) if first.mixing is None else first.mixing))


def _patches(
    states: Tensor, total: Compression, has_cls: bool, reduction: Reduction, keep: int
) -> tuple[Tensor, Compression]:
    """Removes the first token and moves [CLS], the first source, to the end; sorts tokens in raster order.

    The first token is [CLS], and other tokens are not made of it, unless the reduction does not keep it; then they stay
    in their order.

    Raises:
        FoveateError: Another number of patches than `keep` is left.
    """
    skip = int(has_cls)
    origin, count = total.origin[:, skip:], total.count - skip
    fewest, most = (
        torch.stack([count.min(), count.max()]).tolist() if reads_values(reduction, count.device) else [keep] * 2
    )
    if fewest != keep or most != keep:
        left = f"{fewest} to {most}" if fewest < most else str(most)
        raise FoveateError(f"{reduction} left {left} patches: expected exactly keep={keep} after the feature layer")
    if has_cls and not reduction.keeps_cls:
        patches = torch.where(origin > 0, origin - 1, torch.where(origin == 0, EXTRA, origin))
        mixing = None if total.mixing is None else total.mixing[:, 1:].roll(-1, -1)
        return states[:, 1:], Compression(patches, mixing)
    order = origin.masked_fill(origin == PADDING, torch.iinfo(origin.dtype).max).argsort(dim=-1, stable=True)

    def ordered(rows: Tensor) -> Tensor:
        return rows[:, skip:].gather(1, order[..., None].expand(-1, -1, rows.shape[2]))

    patches = origin.gather(1, order)
    patches = torch.where(patches < 0, patches, patches - skip)
    mixing = None if total.mixing is None else ordered(total.mixing)[..., skip:]
    return ordered(states * total.real[..., None]), Compression(patches, mixing)
