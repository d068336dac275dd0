"""A vision tower that sees images of one size: CLIP's, SigLIP's, InternViT."""

from collections.abc import Callable, Iterable, Sequence
from contextlib import nullcontext
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from foveate.core.errors import LayerError
from foveate.core.needs import ClsQuery, ClsRows, Keys, Need, ReceivedRows
from foveate.functional.attention import attention_rows, mean_attention
from foveate.models.backbone.adapter import Tower
from foveate.models.backbone.attention_tap import tapped


class TileTower:
    """Runs a tower over images of its own size, and listens to its attention.

    Args:
        model: The tower.
        attention: Its attention modules, layer by layer.
        about: What is known of it.
        states: From its pixels to the features that go on to the projector, [CLS] first if there is one; also told the
            last layer that has to run.
    """

    def __init__(
        self,
        model: Any,  # noqa: ANN401 (a class per family)
        attention: Sequence[nn.Module],
        about: Tower,
        states: Callable[..., Tensor],
    ) -> None:
        self.model, self.about, self.states = model, about, states
        self._layer_of = {module: layer for layer, module in enumerate(attention)}

    def encode(
        self, pixels: Float[Tensor, "image channel height width"], wanted: dict[Need, tuple[int, ...]]
    ) -> tuple[Float[Tensor, "image source dim"], dict[Need, Tensor]]:
        """Patches, then [CLS] if there is one, and the answers to the needs that name a layer.

        Args:
            pixels: Of the images.
            wanted: What is asked, and the layers that answer it.
        """
        recorded: dict[tuple[type[Need], int], Tensor] = {}

        def listen(layer: int, query: Tensor, key: Tensor, scaling: float) -> None:
            query, key = query.detach(), key.detach()
            for need, layers in wanted.items():
                if layer in layers and (type(need), layer) not in recorded:
                    recorded[type(need), layer] = self._heard(need, query, key, scaling)

        last = max([self.about.feature_layer, *(layer for layers in wanted.values() for layer in layers)])
        with tapped(self.model, self._layer_of, listen) if any(wanted.values()) else nullcontext():
            sources = self._cls_last(self.states(pixels, last))
        values: dict[Need, Tensor] = {}
        for need, layers in wanted.items():
            if isinstance(need, ClsRows):
                values[need] = torch.stack([recorded[ClsRows, layer] for layer in layers], 1)
            elif layers:
                values[need] = recorded[type(need), layers[0]]
        return sources, values

    def _heard(self, need: Need, query: Tensor, key: Tensor, scaling: float) -> Tensor:
        """What one attention call answers."""
        match need:
            case ClsRows():
                return attention_rows(query[:, :, :1], key, scaling)[:, :, 0, 1:]
            case ReceivedRows():
                rows = torch.ones(len(query), query.shape[2], device=query.device)
                return mean_attention(query, key, scaling, rows)[:, :, int(self.about.has_cls) :]
            case ClsQuery():
                return query[:, :, 0]
            case Keys():
                return self._cls_last(key.transpose(1, 2))
        raise TypeError(f"{need} is not about a layer's attention")

    def _cls_last(self, states: Tensor) -> Tensor:
        return torch.cat([states[:, 1:], states[:, :1]], 1) if self.about.has_cls else states


def hidden(states: Iterable[Tensor], layers: int | Sequence[int], depth: int) -> Tensor:
    """The hidden states that a configuration's `vision_feature_layer` names, side by side; no others are kept.

    Args:
        states: The input of the first layer and the output of each that runs.
        layers: As in the configuration.
        depth: How many layers there are.
    """
    named = [i % (depth + 1) for i in ([layers] if isinstance(layers, int) else layers)]
    kept = {i: state for i, state in enumerate(states) if i in named}
    return torch.cat([kept[i] for i in named], -1)


def writing(layers: int | Sequence[int], depth: int) -> int:
    """The layer (0-based) that writes the last of these hidden states; state i is the input of layer i."""
    several = [layers] if isinstance(layers, int) else list(layers)
    if wrong := [layer for layer in several if not -depth - 1 <= layer <= depth]:
        raise LayerError(f"vision_feature_layer={wrong[0]}: this tower has {depth} layers, states 0..{depth} of them")
    last = max(several, key=lambda layer: layer % (depth + 1))
    return last % (depth + 1) - 1
