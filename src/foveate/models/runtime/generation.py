"""Greedy answers to many questions about few images, with shared computation as far as the method allows."""

from collections.abc import Collection, Sequence
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
from foveate.models.runtime.branches import Branches
from foveate.models.runtime.decoder_passes import DecoderPasses
from foveate.models.runtime.greedy import Answers, log_probability, undrafted, verified
from foveate.models.runtime.packing import pack
from foveate.models.runtime.pruning import Pruning

_LEAST_COMMON = 0.1  # share of a prompt from which running common text once saves more than its own mask costs


@dataclass(frozen=True, eq=False)
class Decoding:
    """The limit of answers, and the reference answers, which serve as drafts.

    Attributes:
        max_new_tokens: Longest answer.
        references: Reference answer of every question, including the end token; empty for decoding without drafts.
    """

    max_new_tokens: int
    references: Sequence[Sequence[int]] = ()


@dataclass(frozen=True, eq=False)
class Conversation:
    """The images of a prompt and the questions about them, as token ids.

    Attributes:
        prefix: The prompt up to and including the last image token; the same for all questions.
        suffixes: The rest of each prompt.
    """

    prefix: Sequence[int]
    suffixes: Sequence[Sequence[int]]

    @classmethod
    def from_prompts(cls, prompts: Sequence[Sequence[int]], placeholders: Collection[int]) -> "Conversation":
        """Splits full prompts after the image or video.

        Args:
            prompts: The prompts.
            placeholders: The tokens that stand for images and videos.

        Raises:
            ValueError: The prompts differ before the end of the image, so that they have no common prefix.
        """
        end = max(place for place, token in enumerate(prompts[0]) if token in placeholders) + 1
        if any(list(prompt[:end]) != list(prompts[0][:end]) for prompt in prompts):
            raise ValueError("prompts about one image must be equal up to the end of the image")
        return cls(prompts[0][:end], [prompt[end:] for prompt in prompts])


@torch.inference_mode()
def answer(
    adapter: Adapter,
    conversations: Sequence[Conversation],
    compressed: Compressed,
    repack: bool,
    decoding: Decoding,
    share: bool = True,
) -> Answers:
    """Returns the answer to every question, conversation by conversation.

    Keys and values of the prefix are computed once per image. A reference is read together with its question as a draft
    of the answer: where the model agrees, nothing is left to decode.

    Args:
        adapter: The model's adapter.
        conversations: One per image; those of several images have one question each.
        compressed: One row per image.
        repack: Whether to number the tokens consecutively; see `pack`.
        decoding: Longest answer, and references.
        share: Whether common text before the images is computed once for all prompts.
    """
    references, limit = decoding.references, decoding.max_new_tokens
    if _exceeds_window(adapter, conversations, references, limit):
        prompts = _one_per_question(conversations, compressed)
        answers = undrafted(adapter, *prompted(adapter, *prompts, repack, ()), limit)
        if not references:
            return answers
        return replace(answers, log_probability=likelihood(adapter, conversations, compressed, repack, references))
    blocks, states = _run(adapter, _with_references(conversations, references), compressed, repack, share)
    if not references:
        return undrafted(adapter, blocks, states, limit)
    drafts, real = left_padded(references, adapter.pad_token, states.device)
    logits = adapter.decoder.logits(states[:, -drafts.shape[1] :])
    return verified(adapter, blocks, logits, drafts, real, limit)


@torch.inference_mode()
def likelihood(
    adapter: Adapter,
    conversations: Sequence[Conversation],
    compressed: Compressed,
    repack: bool,
    references: Sequence[Sequence[int]],
    share: bool = True,
) -> Float[Tensor, " question"]:
    """Returns the log-probability of the reference answer to every question, conversation by conversation.

    Args:
        adapter: The model's adapter.
        conversations: One per image.
        compressed: One row per image.
        repack: Whether to number the tokens consecutively; see `pack`.
        references: Reference answer of every question, including the end token.
        share: Whether common text before the images is computed once for all prompts.
    """
    answered = _with_references(conversations, references)
    if _exceeds_window(adapter, conversations, references, 0):
        _, states = prompted(adapter, *_one_per_question(answered, compressed), repack, ())
    else:
        _, states = _run(adapter, answered, compressed, repack, share)
    tokens, real = left_padded(references, adapter.pad_token, states.device)
    return log_probability(adapter.decoder.logits(states[:, -tokens.shape[1] :]), tokens, real)


@torch.inference_mode()
def answer_each(
    adapter: Adapter,
    prompts: Sequence[Sequence[int]],
    compressed: Compressed,
    repack: bool,
    cuts: Sequence[Cut],
    decoding: Decoding,
) -> tuple[Answers, Pruning]:
    """Returns the answer to every prompt with cuts inside the language model, and the pruning that took place.

    Args:
        adapter: The model's adapter.
        prompts: Full prompts of equally many images.
        compressed: One row per image.
        repack: Whether to number the tokens consecutively before the cuts; see `pack`.
        cuts: Cuts inside the language model.
        decoding: Longest answer, and references.
    """
    blocks, states = prompted(adapter, prompts, compressed, repack, cuts)
    limit = decoding.max_new_tokens
    if not decoding.references:
        return undrafted(adapter, blocks, states, limit), blocks.pruning
    states = states[:, -1:]
    drafts, real = left_padded(decoding.references, adapter.pad_token, states.device)
    if drafts.shape[1] > 1:  # the logits of a reference's last token are not needed
        further = blocks.step(adapter.inner.get_input_embeddings()(drafts[:, :-1]), real[:, :-1])
        states = _prepended(states, further, real[:, :-1])
    logits = adapter.decoder.logits(states)
    return verified(adapter, blocks, logits, drafts, real, limit), blocks.pruning


def embedded(
    adapter: Adapter, prompts: Sequence[Sequence[int]], compressed: Compressed, repack: bool
) -> tuple[Tensor, Layout]:
    """Returns input embeddings and layout of left-padded prompts."""
    ids, mask = left_padded(prompts, adapter.pad_token, torch.device("cpu"))
    given = {"input_ids": ids, "attention_mask": mask}
    inputs, layout = pack(adapter, given, compressed, repack, compressed.tokens.device)
    return adapter.embed(inputs["input_ids"], layout.tokens), layout


def prompted(
    adapter: Adapter,
    prompts: Sequence[Sequence[int]],
    compressed: Compressed,
    repack: bool,
    cuts: Sequence[Cut],
    share: bool = False,
) -> tuple[DecoderPasses, Tensor]:
    """Runs prompts and returns the passes, which can continue them, and the normalised states of the last block.

    Args:
        adapter: The model's adapter.
        prompts: Full prompts.
        compressed: The compressed images of the prompts.
        repack: Whether to number the tokens consecutively; see `pack`.
        cuts: Cuts inside the language model.
        share: Whether common text at the start of all prompts may run once; its states are then not returned.
    """
    states, layout = embedded(adapter, prompts, compressed, repack)
    common = _common_text(prompts, adapter.placeholders) if share else 0
    if len(prompts) == 1 or not _LEAST_COMMON * states.shape[1] < common < states.shape[1]:
        common = 0
    else:
        states, layout = _padded_after(common, states, layout)
    passes = DecoderPasses(adapter.decoder, layout, cuts, compressed)
    return passes, passes.prompt(states, common)


def _exceeds_window(
    adapter: Adapter, conversations: Sequence[Conversation], references: Sequence[Sequence[int]], limit: int
) -> bool:
    """Returns whether rows of the cache may have more slots than the sliding window of some blocks.

    Sliding windows count slots of the cache, in which shared text, drafts and questions of different lengths leave
    gaps.
    """
    window = adapter.decoder.window
    prompts = max(len(c.prefix) for c in conversations)
    questions = max(len(suffix) for c in conversations for suffix in c.suffixes)
    return window is not None and prompts + questions + limit + max(map(len, references), default=0) > window


def _one_per_question(
    conversations: Sequence[Conversation], compressed: Compressed
) -> tuple[list[list[int]], Compressed]:
    """Returns the whole prompt and the images of every question."""
    prompts = [[*c.prefix, *suffix] for c in conversations for suffix in c.suffixes]
    if len(prompts) == len(conversations):  # each may have several images
        return prompts, compressed
    owner = [row for row, conversation in enumerate(conversations) for _ in conversation.suffixes]
    return prompts, compressed.chosen(owner)


def _with_references(
    conversations: Sequence[Conversation], references: Sequence[Sequence[int]]
) -> Sequence[Conversation]:
    """Appends the reference answer to each question, without its last token, whose logits are not needed."""
    if not references:
        return conversations
    left = iter(references)
    return [Conversation(c.prefix, [[*s, *next(left)[:-1]] for s in c.suffixes]) for c in conversations]


def _common_text(prompts: Sequence[Sequence[int]], placeholders: Collection[int]) -> int:
    """Returns the number of leading text tokens that all prompts share."""
    columns = zip(*prompts, strict=False)
    parts = (i for i, column in enumerate(columns) if len(set(column)) > 1 or column[0] in placeholders)
    return next(parts, 0)


def _padded_after(common: int, states: Tensor, layout: Layout) -> tuple[Tensor, Layout]:
    """Moves the padding of left-padded prompts to after their `common` first tokens."""
    padding = (layout.role == Role.PADDING).sum(1, keepdim=True)
    column = torch.arange(states.shape[1], device=states.device)
    order = torch.where(
        column < common, column + padding, torch.where(column < common + padding, column - common, column)
    )
    position = layout.position.gather(2, order.expand(len(layout.position), -1, -1))
    role, patch = layout.role.gather(1, order), layout.patch.gather(1, order)
    moved = states.gather(1, order[..., None].expand(-1, -1, states.shape[2]))
    extent = layout.extent and replace(layout.extent, first_visual=0, first_question=0)  # wherever they are now
    return moved, replace(layout, role=role, patch=patch, position=position, extent=extent)


def _run(
    adapter: Adapter, conversations: Sequence[Conversation], compressed: Compressed, repack: bool, share: bool
) -> tuple[DecoderPasses, Tensor]:
    """Runs each prefix once and all questions after it.

    Returns:
        The passes, and for each question the last state of the prefix and the states of the question.
    """
    device = compressed.tokens.device
    blocks, states = prompted(adapter, [c.prefix for c in conversations], compressed, repack, (), share)
    branches = Branches.of([c.suffixes for c in conversations], adapter.pad_token, device)
    before = states[branches.owner, -1:]
    if not branches.tokens.shape[1]:
        blocks.select(branches.owners)
        return blocks, before
    return blocks, _prepended(before, blocks.branch(branches), branches.real)


def _prepended(before: Tensor, states: Tensor, real: Tensor) -> Tensor:
    """Inserts the state `before` in front of the first real token of each row of left-padded states."""
    joined = torch.cat([before, states], 1)
    joined[torch.arange(len(joined), device=joined.device), real.shape[1] - real.sum(1)] = before[:, 0]
    return joined
