"""Logits of compressed prompts without padding, cache and packing, from the parts of the stock model."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from foveate.compressors import VisionCompressor
from foveate.core.compression import Compression
from foveate.models.backbone.adapter import Adapter


class _Sequence(NamedTuple):
    """The input of the language model for one prompt.

    Attributes:
        states: (1, token, dim) input embeddings.
        position: (axis, token) positions.
        visual: (1, token) bool, marks image tokens.
        deepstack: The features that are added to the image tokens after each of the first blocks.
    """

    states: Tensor
    position: Tensor
    visual: Tensor
    deepstack: list[Tensor]


def recomputed_logits(
    adapter: Adapter,
    prompt: list[int],
    images: Sequence[dict[str, Tensor]],
    parts: Sequence[Compression],
    compressor: VisionCompressor,
    answer: list[int],
) -> Tensor:
    """Returns the logits of each answer token from the whole sequence of one prompt.

    Args:
        adapter: The adapter of the model.
        prompt: Token ids with all placeholders.
        images: Model inputs of each image of the prompt.
        parts: The compression of each image.
        compressor: The compressor, for its positions and separators.
        answer: Token ids of the answer.
    """
    sequence = _sequence(adapter, prompt, images, parts, compressor.separators)
    position, length = sequence.position, sequence.states.shape[1]
    if compressor.repack and adapter.position_axes == 1:
        position = torch.arange(length)[None]
    words = adapter.inner.get_input_embeddings()(torch.tensor([answer[:-1]]))
    following = torch.arange(words.shape[1]) + int(position.max()) + 1
    if adapter.position_axes > 1:  # positions of videos may pass those of the text after them
        following += int(_positions(adapter, torch.tensor([[*prompt, answer[0]]]), images)[0, -1]) - int(following[0])
    position = torch.cat([position, following.expand(len(position), -1)], 1)
    embeds = torch.cat([sequence.states, words], 1)
    visual = torch.cat([sequence.visual, torch.zeros(words.shape[:2], dtype=torch.bool)], 1)
    options: dict[str, Any] = {}
    if adapter.deepstack_levels:
        options = {"visual_pos_masks": visual, "deepstack_visual_embeds": sequence.deepstack}
    output = adapter.decoder.model(
        inputs_embeds=embeds,
        attention_mask=_masks(adapter, visual[0]),
        position_ids=position if len(position) == 1 else position[:, None],
        use_cache=False,
        **options,
    )
    return adapter.decoder.head(output.last_hidden_state)[0, length - 1 :]


def logits_with_hidden(adapter: Adapter, ids: Tensor, image: dict[str, Tensor], hidden: Tensor, layer: int) -> Tensor:
    """Returns the logits of the first answer token if no token attends to the hidden ones from block `layer` on.

    Args:
        adapter: The adapter of the model.
        ids: (1, token) token ids with all placeholders.
        image: Model inputs of the prompt's image.
        hidden: (token) bool, marks the hidden tokens, which attend to themselves.
        layer: The first block in which they are hidden.
    """
    features, levels, _ = features_of(adapter, image)
    placeholder = ids[0] == adapter.image_token
    states = adapter.inner.get_input_embeddings()(ids)
    states[0, placeholder] = features
    position = _positions(adapter, ids, [image])[:, None]
    rotation = adapter.decoder.model.rotary_emb(states, position if len(position) > 1 else position[0])
    earlier = torch.ones(ids.shape[1], ids.shape[1], dtype=torch.bool).tril()
    for number, block in enumerate(adapter.decoder.model.layers):
        mask = earlier & (~hidden | torch.eye(len(hidden), dtype=torch.bool) if number >= layer else True)
        states = block(states, attention_mask=mask[None, None], position_embeddings=rotation)
        if number < len(levels):
            states[0, placeholder] += levels[number]
    return adapter.decoder.head(adapter.decoder.model.norm(states))[0, -1]


def features_of(adapter: Adapter, image: dict[str, Tensor]) -> tuple[Tensor, list[Tensor], Tensor]:
    """Returns the stock features of one image or video: tokens, DeepStack features, and which tokens are newlines."""
    model: Any = adapter.model
    get = model.get_video_features if "pixel_values_videos" in image else model.get_image_features
    output = get(**{name: value for name, value in image.items() if name != "second_per_grid_ts"}, return_dict=True)
    tokens = output.pooler_output
    tokens = tokens.flatten(0, 1) if isinstance(tokens, Tensor) else torch.cat(list(tokens))
    levels = [torch.cat(list(level)) for level in getattr(output, "deepstack_features", None) or []]
    newline = getattr(adapter.inner, "image_newline", None)
    if newline is None:
        return tokens, levels, torch.zeros(len(tokens), dtype=torch.bool)
    return tokens, levels, (tokens == newline).all(1)


def _masks(adapter: Adapter, visual: Tensor) -> Any:  # noqa: ANN401 (one mask, or one for each kind of block)
    """Returns the masks of one prompt as the stock language model takes them: those of the definition, pair by pair."""
    if not adapter.decoder.both_ways:
        return torch.ones(1, len(visual), dtype=torch.long)
    token, window = torch.arange(len(visual)), adapter.decoder.window or len(visual)
    image = (visual & ~visual.roll(1)).cumsum(0).masked_fill(~visual, 0)  # prompts begin with text
    together = (image[:, None] == image) & visual[:, None]
    full = (token[:, None] >= token) | together
    near = full & (token > token[:, None] - window)
    return {"full_attention": full[None, None], "sliding_attention": near[None, None]}


def _positions(adapter: Adapter, ids: Tensor, images: Sequence[dict[str, Tensor]]) -> Tensor:
    """Returns the stock positions of a full prompt: (axis, token)."""
    if adapter.position_axes == 1:
        return torch.arange(ids.shape[1])[None]
    kind = (ids == adapter.image_token).int() * (2 if adapter.modality == "video" else 1)
    names = [name for name in images[0] if not name.startswith("pixel_values")]
    grids = {name: torch.cat([image[name] for image in images]) for name in names}
    return adapter.inner.get_rope_index(ids, mm_token_type_ids=kind, **grids)[0][:, 0]


def _sequence(
    adapter: Adapter,
    prompt: list[int],
    images: Sequence[dict[str, Tensor]],
    parts: Sequence[Compression],
    separators: bool,
) -> _Sequence:
    """Replaces the images of one prompt by their compressed tokens, which keep their positions."""
    ids = torch.tensor([prompt])
    words, place = adapter.inner.get_input_embeddings()(ids)[0], _positions(adapter, ids, images)
    states, positions, visual, deepstack = [], [], [], [[] for _ in range(adapter.deepstack_levels)]
    columns = [at for at, token in enumerate(prompt) if token == adapter.image_token]
    found: dict[int, Tensor] = {}  # the tokens in the place of each placeholder
    for image, compression in zip(images, parts, strict=True):
        features, levels, newline = features_of(adapter, image)
        count = len(newline)
        own, columns = columns[:count], columns[count:]
        patches = (~newline).nonzero()[:, 0]
        offset = patches[compression.origin[0]]
        rows = _applied(compression, features[patches])
        if separators:
            offset = torch.cat([offset, newline.nonzero()[:, 0]])
            rows = torch.cat([rows, features[newline]])
        found |= dict.fromkeys(own, rows[:0])
        found |= {own[at]: row[None] for at, row in zip(offset.tolist(), rows, strict=True)}
        for level, values in zip(deepstack, levels, strict=True):
            level.append(_applied(compression, values))
    for at in range(len(prompt)):
        rows = found[at] if at in found else words[at : at + 1]
        states.append(rows)
        positions.append(place[:, [at] * len(rows)])
        visual.append(torch.full((len(rows),), at in found))
    levels_of_prompt = [torch.cat(level) for level in deepstack]
    return _Sequence(torch.cat(states)[None], torch.cat(positions, 1), torch.cat(visual)[None], levels_of_prompt)


def _applied(compression: Compression, features: Tensor) -> Tensor:
    """Returns Y = M X of one image; in a batch M has columns for the patches of the largest one."""
    if compression.mixing is None:
        return features[compression.origin[0]]
    return compression.mixing[0, :, : len(features)] @ features
