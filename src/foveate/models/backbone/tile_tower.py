"""A vision tower for images of one size: CLIP's, SigLIP's, InternViT."""

from collections.abc import Callable, Iterable, Sequence
from contextlib import nullcontext
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from foveate.core.errors import LayerError
from foveate.core.needs import ClsQuery, ClsRows, FrameVectors, Keys, Need, PoolingRows, ReceivedRows
from foveate.functional.attention import attention_rows, from_others, mean_attention
from foveate.models.backbone.adapter import Tower
from foveate.models.backbone.attention_tap import tapped


class TileTower:
    """A vision tower that runs over images of its own size while its attention is recorded.

    Args:
        model: The tower.
        attention: Its attention modules, layer by layer.
        properties: Its depth, heads, grid and the like.
        states: Maps pixels and the number of the last layer to run to the features that enter the projector, [CLS]
            first if there is one.
        head: Maps these features to the output of the tower's pooling head and to the rows of its query; None if it
            has none.
    """

    def __init__(
        self,
        model: Any,  # noqa: ANN401 (a class per family)
        attention: Sequence[nn.Module],
        properties: Tower,
        states: Callable[..., Tensor],
        head: Callable[[Tensor], tuple[Tensor, Tensor]] | None = None,
    ) -> None:
        self.model, self.properties, self.states, self.head = model, properties, states, head
        self._layer_of = {module: layer for layer, module in enumerate(attention)}

    def encode(
        self, pixels: Float[Tensor, "image channel height width"], wanted: dict[Need, tuple[int, ...]]
    ) -> tuple[Float[Tensor, "image source dim"], dict[Need, Tensor]]:
        """Returns patches, then [CLS] if there is one, and the answers about layers and about the pooling head.

        Args:
            pixels: Pixels of the images.
            wanted: The needs, and the layers that answer each.
        """
        recorded: dict[tuple[object, int], Tensor] = {}

        def listen(layer: int, query: Tensor, key: Tensor, scaling: float) -> None:
            query, key = query.detach(), key.detach()
            for need, layers in wanted.items():
                if layer in layers and (_kind(need), layer) not in recorded:
                    recorded[_kind(need), layer] = self._answer(need, query, key, scaling)

        last = max([self.properties.feature_layer, *(layer for layers in wanted.values() for layer in layers)])
        with tapped(self.model, self._layer_of, listen) if any(wanted.values()) else nullcontext():
            sources = self._cls_last(self.states(pixels, last))
        values: dict[Need, Tensor] = {}
        for need, layers in wanted.items():
            if isinstance(need, ClsRows):
                values[need] = torch.stack([recorded[ClsRows, layer] for layer in layers], 1)
            elif layers:
                values[need] = recorded[_kind(need), layers[0]]
        return sources, values | self._pooled(sources, wanted)

    def _pooled(self, sources: Float[Tensor, "image patch dim"], needs: Iterable[Need]) -> dict[Need, Tensor]:
        """Returns the answers of the pooling head to those needs that are about it, each image a frame."""
        read = {PoolingRows(), FrameVectors()}.intersection(needs)
        if self.head is None or not read:
            return {}
        vectors, rows = self.head(sources.detach())
        answers: dict[Need, Tensor] = {PoolingRows(): rows.float(), FrameVectors(): vectors[:, None]}
        return {need: answers[need] for need in read}

    def _answer(self, need: Need, query: Tensor, key: Tensor, scaling: float) -> Tensor:
        """Returns the answer to a need from one attention call."""
        match need:
            case ClsRows():
                return attention_rows(query[:, :, :1], key, scaling)[:, :, 0, 1:]
            case ReceivedRows(others=True):
                return from_others(query, key, scaling, int(self.properties.has_cls))
            case ReceivedRows():
                rows = torch.ones(len(query), query.shape[2], device=query.device)
                return mean_attention(query, key, scaling, rows)[:, :, int(self.properties.has_cls) :]
            case ClsQuery():
                return query[:, :, 0]
            case Keys():
                return self._cls_last(key.transpose(1, 2))
        raise TypeError(f"{need} is not about a layer's attention")

    def _cls_last(self, states: Tensor) -> Tensor:
        return torch.cat([states[:, 1:], states[:, :1]], 1) if self.properties.has_cls else states


def _kind(need: Need) -> object:
    """Returns what answers of one layer to different needs share: rows of [CLS] are recorded layer by layer."""
    return ClsRows if isinstance(need, ClsRows) else need


def selected_states(states: Iterable[Tensor], layers: int | Sequence[int], depth: int) -> Tensor:
    """Concatenates the hidden states that `vision_feature_layer` names along the width; keeps no others in memory.

    Args:
        states: The input of the first layer and the output of each layer that runs.
        layers: The configuration's `vision_feature_layer`.
        depth: Number of layers.
    """
    named = [i % (depth + 1) for i in ([layers] if isinstance(layers, int) else layers)]
    kept = {i: state for i, state in enumerate(states) if i in named}
    return torch.cat([kept[i] for i in named], -1)


def feature_layer_of(layers: int | Sequence[int], depth: int) -> int:
    """Returns the layer (0-based) that writes the last of these hidden states; state i is the input of layer i.

    Raises:
        LayerError: The tower has no such hidden state.
    """
    several = [layers] if isinstance(layers, int) else list(layers)
    if wrong := [layer for layer in several if not -depth - 1 <= layer <= depth]:
        raise LayerError(
            f"vision_feature_layer={wrong[0]}: this tower has {depth} layers, choose a hidden state 0..{depth} or "
            f"-{depth + 1}..-1"
        )
    last = max(several, key=lambda layer: layer % (depth + 1))
    return last % (depth + 1) - 1
