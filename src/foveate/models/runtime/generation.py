"""Greedy answers to many questions about few images, with as much shared as the method allows."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from foveate.core.compression import Compressed
from foveate.core.contracts import Cut
from foveate.core.needs import Role
from foveate.functional.sequence import left_padded
from foveate.models.backbone.adapter import Adapter
from foveate.models.backbone.decoder import Layout
from foveate.models.runtime.decoder_passes import DecoderPasses
from foveate.models.runtime.greedy import Answers, log_probability, undrafted, verified
from foveate.models.runtime.packing import pack
from foveate.models.runtime.pruning import Pruning

_WORTH = 0.1  # share of a prompt below which a mask of its own costs more than running common text once saves


@dataclass(frozen=True, eq=False)
class Conversation:
    """An image and the questions about it, as token ids.

    Attributes:
        prefix: Everything up to and including the last image token; the same for all questions.
        suffixes: The rest of each prompt.
    """

    prefix: Sequence[int]
    suffixes: Sequence[Sequence[int]]

    @classmethod
    def from_prompts(cls, prompts: Sequence[Sequence[int]], image_token: int) -> "Conversation":
        """Splits full prompts after the image.

        Raises:
            ValueError: The prompts differ before the end of the image, so that nothing can be shared.
        """
        cut = len(prompts[0]) - list(reversed(prompts[0])).index(image_token)
        if any(list(prompt[:cut]) != list(prompts[0][:cut]) for prompt in prompts):
            raise ValueError("prompts about one image must be equal up to the end of the image")
        return cls(prompts[0][:cut], [prompt[cut:] for prompt in prompts])


@torch.inference_mode()
def answer(
    adapter: Adapter,
    conversations: Sequence[Conversation],
    compressed: Compressed,
    repack: bool,
    max_new_tokens: int,
    references: Sequence[Sequence[int]] = (),
    share: bool = True,
) -> Answers:
    """The answer to every question, conversation by conversation.

    Keys and values of what precedes the questions are computed once per image. A reference is read together with its
    question: where it is what the model says, nothing is left to decode.

    Args:
        adapter: Of the model.
        conversations: One per image.
        compressed: One row per image.
        repack: See `pack`.
        max_new_tokens: Longest answer.
        references: For every question the tokens that it should be answered with, the end token among them.
        share: Whether text before the images, where it is the same, is computed once for all.
    """
    if _exceeds_window(adapter, conversations, references, max_new_tokens):
        said = undrafted(adapter, *prompted(adapter, *_apart(conversations, compressed), repack, ()), max_new_tokens)
        known = likelihood(adapter, conversations, compressed, repack, references) if references else None
        return said if known is None else replace(said, log_probability=known)
    blocks, states = _conversed(adapter, _spoken(conversations, references), compressed, repack, share)
    if not references:
        return undrafted(adapter, blocks, states, max_new_tokens)
    drafts, real = left_padded(references, adapter.pad_token, states.device)
    return verified(
        adapter, blocks, adapter.decoder.logits(states[:, -drafts.shape[1] :]), drafts, real, max_new_tokens
    )


@torch.inference_mode()
def likelihood(
    adapter: Adapter,
    conversations: Sequence[Conversation],
    compressed: Compressed,
    repack: bool,
    references: Sequence[Sequence[int]],
    share: bool = True,
) -> Float[Tensor, " question"]:
    """The log-probability of a given answer to every question, conversation by conversation; nothing is decoded.

    Args:
        adapter: Of the model.
        conversations: One per image.
        compressed: One row per image.
        repack: See `pack`.
        references: As in `answer`.
        share: As in `answer`.
    """
    spoken = _spoken(conversations, references)
    if _exceeds_window(adapter, conversations, references, 0):
        _, states = prompted(adapter, *_apart(spoken, compressed), repack, ())
    else:
        _, states = _conversed(adapter, spoken, compressed, repack, share)
    tokens, real = left_padded(references, adapter.pad_token, states.device)
    return log_probability(adapter.decoder.logits(states[:, -tokens.shape[1] :]), tokens, real)


@torch.inference_mode()
def answer_each(
    adapter: Adapter,
    prompts: Sequence[Sequence[int]],
    compressed: Compressed,
    repack: bool,
    cuts: Sequence[Cut],
    max_new_tokens: int,
    references: Sequence[Sequence[int]] = (),
) -> tuple[Answers, Pruning]:
    """The answer to every prompt when cuts inside the language model cut it, and what they cut.

    Args:
        adapter: Of the model.
        prompts: Full prompts of one image each.
        compressed: One row per prompt.
        repack: Of the vision side; see `pack`.
        cuts: See `Pruning`.
        max_new_tokens: Longest answer.
        references: As in `answer`.
    """
    blocks, states = prompted(adapter, prompts, compressed, repack, cuts)
    if not references:
        return undrafted(adapter, blocks, states, max_new_tokens), blocks.pruning
    states = states[:, -1:]
    drafts, real = left_padded(references, adapter.pad_token, states.device)
    if drafts.shape[1] > 1:  # of a reference its last token foretells nothing that is asked for
        behind = blocks.step(adapter.inner.get_input_embeddings()(drafts[:, :-1]), real[:, :-1])
        states = _behind(states, behind, real[:, :-1])
    logits = adapter.decoder.logits(states)
    return verified(adapter, blocks, logits, drafts, real, max_new_tokens), blocks.pruning


def embedded(
    adapter: Adapter, prompts: Sequence[Sequence[int]], compressed: Compressed, repack: bool
) -> tuple[Tensor, Layout]:
    """Input embeddings of left-padded prompts, and what their tokens are."""
    ids, mask = left_padded(prompts, adapter.pad_token, compressed.tokens.device)
    inputs, layout = pack(adapter, {"input_ids": ids, "attention_mask": mask}, compressed, repack)
    return adapter.embed(inputs["input_ids"], layout.tokens), layout


def prompted(
    adapter: Adapter,
    prompts: Sequence[Sequence[int]],
    compressed: Compressed,
    repack: bool,
    cuts: Sequence[Cut],
    share: bool = False,
) -> tuple[DecoderPasses, Tensor]:
    """The blocks after these prompts, and the last one's states.

    Args:
        adapter: Of the model.
        prompts: Full prompts.
        compressed: Of their images.
        repack: See `pack`.
        cuts: Cuts inside the language model.
        share: Whether text that all prompts begin with may be run once; their states are then not returned.
    """
    states, layout = embedded(adapter, prompts, compressed, repack)
    common = _common_text(prompts, adapter.image_token) if share else 0
    if len(prompts) == 1 or not _WORTH * states.shape[1] < common < states.shape[1]:
        return (blocks := DecoderPasses(adapter.decoder, layout, cuts, compressed)), blocks.prompt(states)
    states, layout = _padded_behind(common, states, layout)
    return (blocks := DecoderPasses(adapter.decoder, layout, cuts, compressed)), blocks.prompt(states, common)


def _exceeds_window(
    adapter: Adapter, conversations: Sequence[Conversation], references: Sequence[Sequence[int]], limit: int
) -> bool:
    """Whether some blocks may not see all of a conversation.

    Windows count what lies in the cache, where shared text, drafts and questions of several lengths leave gaps.
    """
    window = adapter.decoder.window
    longest = max(len(c.prefix) + max(map(len, c.suffixes)) for c in conversations)
    return window is not None and longest + max(limit, *map(len, references), 0) > window


def _apart(conversations: Sequence[Conversation], compressed: Compressed) -> tuple[list[list[int]], Compressed]:
    """The whole prompt of every question, and an image for each."""
    owner = [row for row, conversation in enumerate(conversations) for _ in conversation.suffixes]
    return [[*c.prefix, *suffix] for c in conversations for suffix in c.suffixes], compressed.chosen(owner)


def _spoken(conversations: Sequence[Conversation], references: Sequence[Sequence[int]]) -> Sequence[Conversation]:
    """Every question with its reference behind it, but for the last token, which foretells nothing that is asked."""
    if not references:
        return conversations
    given = iter(references)
    return [Conversation(c.prefix, [[*s, *next(given)[:-1]] for s in c.suffixes]) for c in conversations]


def _common_text(prompts: Sequence[Sequence[int]], image: int) -> int:
    """How many tokens before any image all prompts begin with."""
    columns = zip(*prompts, strict=False)
    return next((i for i, column in enumerate(columns) if image in column or len(set(column)) > 1), 0)


def _padded_behind(common: int, states: Tensor, layout: Layout) -> tuple[Tensor, Layout]:
    """Left-padded prompts with their padding behind the tokens that they have in common."""
    padding = (layout.role == Role.PADDING).sum(1, keepdim=True)
    column = torch.arange(states.shape[1], device=states.device)
    order = torch.where(
        column < common, column + padding, torch.where(column < common + padding, column - common, column)
    )
    position = layout.position.gather(2, order.expand(len(layout.position), -1, -1))
    role, place = layout.role.gather(1, order), layout.place.gather(1, order)
    moved = states.gather(1, order[..., None].expand(-1, -1, states.shape[2]))
    return moved, replace(layout, role=role, place=place, position=position)


def _conversed(
    adapter: Adapter, conversations: Sequence[Conversation], compressed: Compressed, repack: bool, share: bool
) -> tuple[DecoderPasses, Tensor]:
    """The last states before and within every question, whose image was run once for all that is asked about it."""
    device = compressed.tokens.device
    blocks, states = prompted(adapter, [c.prefix for c in conversations], compressed, repack, (), share)
    owner = torch.tensor([i for i, c in enumerate(conversations) for _ in c.suffixes], device=device)
    blocks.select(owner)
    tokens, real = left_padded([s for c in conversations for s in c.suffixes], adapter.pad_token, device)
    before = states[owner, -1:]
    if not tokens.shape[1]:
        return blocks, before
    behind = blocks.step(adapter.inner.get_input_embeddings()(tokens), real)
    return blocks, _behind(before, behind, real)


def _behind(before: Tensor, states: Tensor, real: Tensor) -> Tensor:
    """States of left-padded tokens, with the state that came before the first real one in front of it."""
    joined = torch.cat([before, states], 1)
    joined[torch.arange(len(joined), device=joined.device), real.shape[1] - real.sum(1)] = before[:, 0]
    return joined
