"""The logits of compressed prompts, computed without any of the code under test.

The whole sequence of one prompt runs through the blocks of the stock model, without padding or cache, with explicit
positions and an explicit mask. Only the stock model's own features and positions are used. Gradients flow if enabled.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from foveate.testing.families import IMAGE, VIDEO

AXES = ("Qwen", "GLM")
"""The families whose positions have three axes."""
BOTH_WAYS = ("gemma3",)
"""The types of models whose image tokens attend to each other in both directions."""
TEXT, SEPARATOR, EXTRA = -1, -3, -2
Image = Mapping[str, Tensor]


def placeholder(image: Image) -> int:
    """Returns the placeholder token of an image or video."""
    return VIDEO if "pixel_values_videos" in image else IMAGE


@dataclass(frozen=True)
class Seen:
    """The stock model's features of one image or video.

    Attributes:
        tokens: (token, dim) features, one per placeholder.
        levels: DeepStack features of each level, one per placeholder.
        separator: (token,) bool, marks separators.
    """

    tokens: Tensor
    levels: list[Tensor]
    separator: Tensor


@dataclass(frozen=True)
class Choice:
    """The remaining tokens of one image.

    Attributes:
        origin: The patch of each token, or `EXTRA`.
        mixing: (token, patch) weights; None if the tokens are their patches.
    """

    origin: list[int]
    mixing: Tensor | None = None


@dataclass(frozen=True)
class Prompt:
    """A prompt as the caller gives it.

    Attributes:
        ids: Token ids with all placeholders, without padding.
        images: The inputs of its images and videos, in their order.
    """

    ids: list[int]
    images: Sequence[Image] = ()


@dataclass(frozen=True)
class Tokens:
    """The remaining tokens of a prompt.

    Attributes:
        states: (token, dim) input embeddings.
        position: (axis, token).
        patch: The patch of each token, numbered across all images of the prompt, or `TEXT`, `SEPARATOR`, `EXTRA`.
        levels: (level, token, dim) features that are added after the first blocks.
        following: Position of the answer in `generate`.
        resumed: Position of the next token where the stock model resumes the prompt from its cache.
    """

    states: Tensor
    position: Tensor
    patch: Tensor
    levels: Tensor
    following: int
    resumed: int

    def __len__(self) -> int:
        return len(self.states)


@dataclass(frozen=True)
class Cut:
    """A cut that keeps only these patches of the prompt from block `layer` on."""

    layer: int
    kept: Sequence[int]
    repacked: bool


def seen(model: Any, image: Image) -> Seen:
    """Returns the stock features of one image or video."""
    get = model.get_video_features if "pixel_values_videos" in image else model.get_image_features
    output = get(**{name: value for name, value in image.items() if name != "second_per_grid_ts"}, return_dict=True)
    tokens = output.pooler_output
    tokens = tokens.flatten(0, 1) if isinstance(tokens, Tensor) else torch.cat(list(tokens))
    levels = [torch.cat(list(level)) for level in getattr(output, "deepstack_features", None) or []]
    newline = getattr(model.model, "image_newline", None)
    if newline is None:
        return Seen(tokens, levels, torch.zeros(len(tokens), dtype=torch.bool))
    return Seen(tokens, levels, (tokens == newline).all(1))


def full_positions(model: Any, family: str, prompt: Prompt) -> Tensor:
    """Returns the stock positions of the full prompt: (axis, token)."""
    if not family.startswith(AXES):
        return torch.arange(len(prompt.ids))[None]
    ids = torch.tensor([prompt.ids])
    kind = (ids == IMAGE).int() + 2 * (ids == VIDEO).int()
    names = ("image_grid_thw", "video_grid_thw", "second_per_grid_ts")
    given = {name: [image[name] for image in prompt.images if name in image] for name in names}
    grids: dict[str, Any] = {name: torch.cat(values) for name, values in given.items() if values}
    return model.model.get_rope_index(ids, mm_token_type_ids=kind, **grids)[0][:, 0]


@dataclass(frozen=True)
class Row:
    """One remaining token of a prompt.

    Attributes:
        state: (dim,) input embedding.
        position: (axis,) position.
        patch: Its patch, or `TEXT`, `SEPARATOR`, `EXTRA`.
        levels: (level, dim) features that are added after the first blocks.
    """

    state: Tensor
    position: Tensor
    patch: int
    levels: Tensor


def remaining(
    model: Any,
    family: str,
    prompt: Prompt,
    choices: Sequence[Choice] | None = None,
    repacked: bool = False,
    separators: bool = True,
) -> Tokens:
    """Returns the input of the language model for a prompt.

    Args:
        model: The stock model.
        family: Name of the model's family.
        prompt: The prompt.
        choices: The remaining tokens of each image; None for all.
        repacked: Whether the remaining tokens are numbered consecutively; positions with three axes never are.
        separators: Whether separators remain.
    """
    positions = full_positions(model, family, prompt)
    rows = _rows(model, family, prompt, positions, choices, separators)
    position, resumed = torch.stack([row.position for row in rows], 1), int(positions.max()) + 1
    following = int(full_positions(model, family, replace(prompt, ids=[*prompt.ids, 5]))[0, -1])  # that of a word there
    if repacked and len(positions) == 1:
        position, following, resumed = torch.arange(len(rows))[None], len(rows), len(rows)
    return Tokens(
        torch.stack([row.state for row in rows]),
        position,
        torch.tensor([row.patch for row in rows]),
        torch.stack([row.levels for row in rows], 1),
        following,
        resumed,
    )


def _rows(
    model: Any,
    family: str,
    prompt: Prompt,
    positions: Tensor,
    choices: Sequence[Choice] | None,
    separators: bool,
) -> list[Row]:
    """Returns the remaining tokens of a prompt, one by one."""
    ids = torch.tensor(prompt.ids)
    words = model.get_input_embeddings()(ids)
    images = [seen(model, image) for image in prompt.images]
    depth = max([len(one.levels) for one in images], default=0)
    none = torch.zeros(depth, words.shape[1])
    columns, placed, first = ((ids == IMAGE) | (ids == VIDEO)).nonzero()[:, 0], {}, 0
    for number, image in enumerate(images):
        choice = None if choices is None else choices[number]
        own, columns = columns[: len(image.tokens)], columns[len(image.tokens) :]
        assert len(own) == len(image.tokens), "placeholders and images do not match"
        assert (ids[own] == placeholder(prompt.images[number])).all(), "placeholders of another kind"
        for offset, row in _image_rows(image, choice, positions[:, own], first, separators, none):
            placed.setdefault(int(own[offset]), []).append(row)
        first += int((~image.separator).sum())
    rows: list[Row] = []
    for at in range(len(ids)):
        if int(ids[at]) in (IMAGE, VIDEO):
            rows += placed.get(at, [])
        else:
            rows.append(Row(words[at], positions[:, at], TEXT, none))
    assert not len(columns), "placeholders and images do not match"
    return rows


def _image_rows(
    image: Seen, choice: Choice | None, positions: Tensor, first: int, separators: bool, none: Tensor
) -> list[tuple[int, Row]]:
    """Returns the tokens of an image, each with the offset of the placeholder in whose place it stands, in their order.

    An extra token follows the token before it.

    Args:
        image: The stock features of the image.
        choice: The remaining tokens; None for all.
        positions: (axis, token) positions of the image's placeholders.
        first: Number of patches of earlier images in the prompt.
        separators: Whether separators remain.
        none: (level, dim) zeros.
    """
    patches = (~image.separator).nonzero()[:, 0].tolist()
    origin = list(range(len(patches))) if choice is None else choice.origin
    mixing = None if choice is None else choice.mixing

    def mixed(values: Tensor, n: int) -> Tensor:
        own = values[patches] if len(values) == len(image.tokens) else values
        return own[origin[n]] if mixing is None else mixing[n, : len(patches)] @ own

    entries: list[tuple[int, int, Row]] = []  # offset, order among equal offsets, token
    last = -1
    for n, patch in enumerate(origin):
        offset = patches[patch] if patch >= 0 else max(last, 0)
        last = max(last, offset) if patch >= 0 else last
        levels = torch.stack([mixed(level, n) for level in image.levels]) if image.levels else none
        number = first + patch if patch >= 0 else patch
        row = Row(mixed(image.tokens, n), positions[:, offset], number, levels)
        entries.append((offset if patch >= 0 else max(last, 0), n if last >= 0 else n - len(origin), row))
    if separators:
        entries += [
            (at, len(origin), Row(image.tokens[at], positions[:, at], SEPARATOR, none))
            for at in image.separator.nonzero()[:, 0].tolist()
        ]
    return [(at, row) for at, _, row in sorted(entries, key=lambda entry: entry[:2])]


def run(
    model: Any, sequence: Tokens, cuts: Sequence[Cut] = (), more: Sequence[int] = (), resumed: int | None = None
) -> tuple[Tensor, Tensor]:
    """Runs a prompt and the tokens after it through the stock blocks.

    Args:
        model: The stock model.
        sequence: The prompt.
        cuts: Cuts inside the language model.
        more: Tokens that follow the prompt.
        resumed: Number of these tokens from which on passes resume from a cache; None if all are the answer of one
            `generate`.

    Returns:
        Logits at each token, and a mask of the tokens that remain to the end.
    """
    decoder, prompt, length = decoder_of(model), len(sequence), len(sequence) + len(more)
    words = model.get_input_embeddings()(torch.tensor(more, dtype=torch.long))
    states = torch.cat([sequence.states, words])[None]
    answered = len(more) if resumed is None else resumed
    starts = [sequence.following if at < answered else sequence.resumed for at in range(len(more))]
    behind = torch.tensor(starts, dtype=torch.long) + torch.arange(len(more))
    position = torch.cat([sequence.position, behind.expand(len(sequence.position), -1)], 1)
    patch = torch.cat([sequence.patch, torch.full((len(more),), TEXT)])
    visible = torch.ones(length, dtype=torch.bool)
    earlier = torch.ones(length, length, dtype=torch.bool).tril()
    itself = torch.eye(length, dtype=torch.bool)
    at_layer = {cut.layer: cut for cut in cuts}
    for number, block in enumerate(decoder.layers):
        if cut := at_layer.get(number):
            kept = torch.isin(patch, torch.tensor(list(cut.kept), dtype=torch.long))
            visible = visible & (kept | (patch < 0))
            if cut.repacked and len(position) == 1:
                position = (visible.cumsum(0) - 1).clamp(min=0)[None]
        place = position[:, None]
        kind = (getattr(decoder.config, "layer_types", None) or [None] * len(decoder.layers))[number]
        kinds = (kind,) if hasattr(decoder.rotary_emb, "layer_types") else ()
        rotation = decoder.rotary_emb(states, place if len(place) > 1 else place[0], *kinds)
        hidden = ~(reached(model, patch, earlier, kind) & (visible | itself))
        mask = torch.zeros_like(hidden, dtype=states.dtype).masked_fill(hidden, torch.finfo(states.dtype).min)
        states = block(states, attention_mask=mask[None, None], position_embeddings=rotation)
        if number < len(sequence.levels):
            states = states.clone()
            states[0, :prompt] += sequence.levels[number]
    return model.lm_head(decoder.norm(states))[0], visible


def decoder_of(model: Any) -> Any:
    """Returns the stock language model without its head."""
    return getattr(model.model, "language_model", None) or model.model.text_model


def reached(model: Any, patch: Tensor, earlier: Tensor, kind: str | None) -> Tensor:
    """Returns which tokens each token may attend to in a block of this kind: (token, token) bool.

    Args:
        model: The stock model.
        patch: The patch of each token; see `Tokens`.
        earlier: Marks for each token itself and those before it.
        kind: Kind of the block; None if all are alike.
    """
    reach = earlier
    if model.config.model_type in BOTH_WAYS:  # the tokens of an image, which no text parts, see each other
        texts = (patch == TEXT).cumsum(0)
        image = patch != TEXT
        reach = reach | (image[:, None] & image & (texts[:, None] == texts))
    if kind == "sliding_attention":
        reach = reach & torch.ones_like(reach).triu(1 - decoder_of(model).config.sliding_window)
    return reach


@torch.no_grad()
def answers(
    model: Any,
    sequence: Tokens,
    cuts: Sequence[Cut] = (),
    tokens: Sequence[int] = (),
    resumed: int | None = None,
) -> Tensor:
    """Returns the logits of the next token after the prompt, and after each of the given tokens; see `run`."""
    logits, visible = run(model, sequence, cuts, tokens, resumed)
    last = int(visible[: len(sequence)].nonzero()[-1])
    return torch.cat([logits[last : last + 1], logits[len(sequence) :]])
