"""What a compressed prompt must answer, computed without any of the code that is tested.

One prompt at a time, without padding and without a cache: the whole sequence runs through the blocks of the stock
model, with explicit positions and an explicit mask. Only the stock model's own features and position numbers are used.
Gradients flow if they are enabled.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from foveate.testing.families import IMAGE, VIDEO

TEXT, SEPARATOR, EXTRA = -1, -3, -2
Image = Mapping[str, Tensor]


def compressed_token(family: str) -> int:
    """Returns the placeholder of what is compressed."""
    return VIDEO if family == "LLaVA-NeXT-Video" else IMAGE


@dataclass(frozen=True)
class Seen:
    """What the stock model makes of one image or video.

    Attributes:
        tokens: (token, dim), as many as it has placeholders.
        levels: The same for each block behind which more is added.
        separator: Which tokens end a row of patches.
    """

    tokens: Tensor
    levels: list[Tensor]
    separator: Tensor


@dataclass(frozen=True)
class Choice:
    """What remains of one image.

    Attributes:
        origin: Of each token its patch, or `EXTRA`.
        mixing: (token, patch) weights; None if the tokens are their patches.
    """

    origin: list[int]
    mixing: Tensor | None = None


@dataclass(frozen=True)
class Prompt:
    """A prompt as its caller gives it.

    Attributes:
        ids: With all placeholders, without padding.
        images: What is compressed.
        others: What is not, such as a video beside the images.
    """

    ids: list[int]
    images: Sequence[Image] = ()
    others: Sequence[Image] = ()


@dataclass(frozen=True)
class Tokens:
    """The remaining tokens of a prompt.

    Attributes:
        states: (token, dim) input embeddings.
        position: (axis, token).
        patch: Of each token its patch, counted over all images of the prompt, or `TEXT`, `SEPARATOR`, `EXTRA`.
        levels: (level, token, dim), what is added behind the first blocks.
        following: Position of the next token.
    """

    states: Tensor
    position: Tensor
    patch: Tensor
    levels: Tensor
    following: int

    def __len__(self) -> int:
        return len(self.states)


@dataclass(frozen=True)
class Cut:
    """Before block `layer` only these patches of the prompt stay."""

    layer: int
    kept: Sequence[int]
    repacked: bool


def seen(model: Any, family: str, image: Image) -> Seen:
    """Returns the stock features of one image or video."""
    video = "pixel_values_videos" in image
    get = model.get_video_features if video else model.get_image_features
    output = get(**image, return_dict=True)
    tokens = output.pooler_output
    tokens = tokens.flatten(0, 1) if isinstance(tokens, Tensor) else torch.cat(list(tokens))
    levels = [torch.cat(list(level)) for level in getattr(output, "deepstack_features", None) or []]
    newline = getattr(model.model, "image_newline", None)
    if newline is None or video:
        return Seen(tokens, levels, torch.zeros(len(tokens), dtype=torch.bool))
    return Seen(tokens, levels, (tokens == newline).all(1))


def full_positions(model: Any, family: str, prompt: Prompt) -> Tensor:
    """Returns the stock positions of the full prompt: (axis, token)."""
    if not family.startswith("Qwen"):
        return torch.arange(len(prompt.ids))[None]
    ids = torch.tensor([prompt.ids])
    kind = (ids == IMAGE).int() + 2 * (ids == VIDEO).int()
    grids: dict[str, Any] = {}
    if prompt.images:
        grids["image_grid_thw"] = torch.cat([image["image_grid_thw"] for image in prompt.images])
    if prompt.others:
        grids["video_grid_thw"] = torch.cat([video["video_grid_thw"] for video in prompt.others])
    return model.model.get_rope_index(ids, mm_token_type_ids=kind, **grids)[0][:, 0]


def remaining(
    model: Any,
    family: str,
    prompt: Prompt,
    choices: Sequence[Choice] | None = None,
    repacked: bool = False,
    separators: bool = True,
) -> Tokens:
    """Returns what the language model is to be given of a prompt.

    Args:
        model: The stock model.
        family: Its name.
        prompt: The prompt.
        choices: What remains of each image; None for all.
        repacked: Whether the remaining tokens are numbered consecutively; positions with three axes never are.
        separators: Whether the tokens between patches stay.
    """
    ids, place = torch.tensor(prompt.ids), full_positions(model, family, prompt)
    words = model.get_input_embeddings()(ids)
    token = compressed_token(family)
    runs = [seen(model, family, image) for image in prompt.images]
    beside = [seen(model, family, other) for other in prompt.others]
    depth = max([len(s.levels) for s in (*runs, *beside)], default=0)
    none = torch.zeros(depth, words.shape[1])
    rows: list[tuple[Tensor, Tensor, int, Tensor]] = []  # state, position, patch, levels
    others = [
        (s.tokens[i], torch.stack([lv[i] for lv in s.levels]) if depth else none)
        for s in beside
        for i in range(len(s.tokens))
    ]
    first, number, at = 0, 0, 0
    while at < len(ids):
        if ids[at] == token:
            image = runs[number]
            choice = None if choices is None else choices[number]
            rows += _image(image, choice, place[:, at : at + len(image.tokens)], first, separators, rows, none)
            first += int((~image.separator).sum())
            number, at = number + 1, at + len(image.tokens)
            continue
        if int(ids[at]) in (IMAGE, VIDEO) and others:
            rows.append((others[0][0], place[:, at], TEXT, others[0][1]))
            others = others[1:]
        else:
            rows.append((words[at], place[:, at], TEXT, none))
        at += 1
    assert number == len(runs) and not others, "placeholders and images do not fit"
    position = torch.stack([row[1] for row in rows], 1)
    following = int(place.max()) + 1
    if repacked and len(place) == 1:
        position, following = torch.arange(len(rows))[None], len(rows)
    return Tokens(
        torch.stack([row[0] for row in rows]),
        position,
        torch.tensor([row[2] for row in rows]),
        torch.stack([row[3] for row in rows], 1),
        following,
    )


def _image(
    image: Seen,
    choice: Choice | None,
    place: Tensor,
    first: int,
    separators: bool,
    before: list[tuple[Tensor, Tensor, int, Tensor]],
    none: Tensor,
) -> list[tuple[Tensor, Tensor, int, Tensor]]:
    """The tokens of an image in the order of its placeholders; one without a patch follows the one before it."""
    patches = (~image.separator).nonzero()[:, 0].tolist()
    origin = list(range(len(patches))) if choice is None else choice.origin
    mixing = None if choice is None else choice.mixing

    def mixed(values: Tensor, n: int) -> Tensor:
        own = values[patches] if len(values) == len(image.tokens) else values
        return own[origin[n]] if mixing is None else mixing[n, : len(patches)] @ own

    entries, last = [], -1
    for n, patch in enumerate(origin):
        stands = patches[patch] if patch >= 0 else max(last, 0)
        last = max(last, stands) if patch >= 0 else last
        levels = torch.stack([mixed(level, n) for level in image.levels]) if image.levels else none
        # an extra token stands behind the latest place that came before it
        entries.append((stands if patch >= 0 else last, n, mixed(image.tokens, n), stands, patch, levels))
    if separators:
        entries += [
            (at, len(origin), image.tokens[at], at, SEPARATOR, none) for at in image.separator.nonzero()[:, 0].tolist()
        ]
    entries.sort(key=lambda entry: entry[:2])
    return [
        (state, place[:, stands], first + patch if patch >= 0 else patch, levels)
        for _, _, state, stands, patch, levels in entries
    ]


def run(model: Any, sequence: Tokens, cuts: Sequence[Cut] = (), more: Sequence[int] = ()) -> tuple[Tensor, Tensor]:
    """Runs a prompt and the tokens behind it through the stock blocks.

    Args:
        model: The stock model.
        sequence: The prompt.
        cuts: Before which blocks visual tokens go.
        more: Tokens that follow the prompt.

    Returns:
        Logits at each token, and which tokens remain to the end.
    """
    decoder, prompt, length = model.model.language_model, len(sequence), len(sequence) + len(more)
    words = model.get_input_embeddings()(torch.tensor(more, dtype=torch.long))
    states = torch.cat([sequence.states, words])[None]
    behind = torch.arange(len(more))
    position = torch.cat([sequence.position, (sequence.following + behind).expand(len(sequence.position), -1)], 1)
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
        rotation = decoder.rotary_emb(states, place if len(place) > 1 else place[0])
        hidden = ~(earlier & (visible | itself))
        mask = torch.zeros_like(hidden, dtype=states.dtype).masked_fill(hidden, torch.finfo(states.dtype).min)
        states = block(states, attention_mask=mask[None, None], position_embeddings=rotation)
        if number < len(sequence.levels):
            states = states.clone()
            states[0, :prompt] += sequence.levels[number]
    return model.lm_head(decoder.norm(states))[0], visible


@torch.no_grad()
def answers(model: Any, sequence: Tokens, cuts: Sequence[Cut] = (), said: Sequence[int] = ()) -> Tensor:
    """Returns the logits of the next token behind the prompt, and behind each of the tokens said."""
    logits, visible = run(model, sequence, cuts, said)
    last = int(visible[: len(sequence)].nonzero()[-1])
    return torch.cat([logits[last : last + 1], logits[len(sequence) :]])
