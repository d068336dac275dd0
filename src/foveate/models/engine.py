"""Greedy answers to many questions about few pictures, with as much shared as the method allows."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from foveate.core.contracts import Cut
from foveate.core.needs import Role
from foveate.core.types import Compressed
from foveate.functional.sequence import left_padded
from foveate.models.adapter import Adapter
from foveate.models.blocks import Blocks
from foveate.models.cutting import Cutting
from foveate.models.decoder import Layout
from foveate.models.packing import pack

_WORTH = 0.1  # share of a prompt below which a mask of its own costs more than running common text once saves


@dataclass(frozen=True, eq=False)
class Conversation:
    """A picture and the questions about it, as token ids.

    Attributes:
        prefix: Everything up to and including the last image token; the same for all questions.
        suffixes: The rest of each prompt.
    """

    prefix: Sequence[int]
    suffixes: Sequence[Sequence[int]]

    @classmethod
    def from_prompts(cls, prompts: Sequence[Sequence[int]], image_token: int) -> "Conversation":
        """Splits full prompts after the picture.

        Raises:
            ValueError: The prompts differ before the end of the picture, so that nothing can be shared.
        """
        cut = len(prompts[0]) - list(reversed(prompts[0])).index(image_token)
        if any(list(prompt[:cut]) != list(prompts[0][:cut]) for prompt in prompts):
            raise ValueError("prompts about one picture must be equal up to the end of the picture")
        return cls(prompts[0][:cut], [prompt[cut:] for prompt in prompts])


@dataclass(frozen=True, eq=False)
class Answers:
    """What the model says, and how likely it finds what it should say.

    Attributes:
        tokens: Greedy answers without the end token.
        log_probability: (prompt,) of the reference answers, NaN without them.
    """

    tokens: list[list[int]]
    log_probability: Tensor


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

    Keys and values of what precedes the questions are computed once per picture. A reference is read together with its
    question: where it is what the model says, nothing is left to decode.

    Args:
        adapter: Of the model.
        conversations: One per picture.
        compressed: One row per picture.
        repack: See `pack`.
        max_new_tokens: Longest answer.
        references: For every question the tokens that it should be answered with, the end token among them.
        share: Whether text before the pictures, where it is the same, is computed once for all.
    """
    if _exceeds_window(adapter, conversations, references, max_new_tokens):
        said = _undrafted(adapter, *prompted(adapter, *_apart(conversations, compressed), repack, ()), max_new_tokens)
        known = likelihood(adapter, conversations, compressed, repack, references) if references else None
        return said if known is None else replace(said, log_probability=known)
    blocks, states = _conversed(adapter, _spoken(conversations, references), compressed, repack, share)
    if not references:
        return _undrafted(adapter, blocks, states, max_new_tokens)
    drafts, real = left_padded(references, adapter.pad_token, states.device)
    return _verified(
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
        conversations: One per picture.
        compressed: One row per picture.
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
    return _log_probability(adapter.decoder.logits(states[:, -tokens.shape[1] :]), tokens, real)


@torch.inference_mode()
def answer_each(
    adapter: Adapter,
    prompts: Sequence[Sequence[int]],
    compressed: Compressed,
    repack: bool,
    stages: Sequence[Cut],
    max_new_tokens: int,
    references: Sequence[Sequence[int]] = (),
) -> tuple[Answers, Cutting]:
    """The answer to every prompt when stages inside the language model cut it, and what they cut.

    Args:
        adapter: Of the model.
        prompts: Full prompts of one image each.
        compressed: One row per prompt.
        repack: Of the vision side; see `pack`.
        stages: See `Cutting`.
        max_new_tokens: Longest answer.
        references: As in `answer`.
    """
    blocks, states = prompted(adapter, prompts, compressed, repack, stages)
    if not references:
        return _undrafted(adapter, blocks, states, max_new_tokens), blocks.cutting
    states = states[:, -1:]
    drafts, real = left_padded(references, adapter.pad_token, states.device)
    if drafts.shape[1] > 1:  # of a reference its last token foretells nothing that is asked for
        behind = blocks.step(adapter.inner.get_input_embeddings()(drafts[:, :-1]), real[:, :-1])
        states = _behind(states, behind, real[:, :-1])
    logits = adapter.decoder.logits(states)
    return _verified(adapter, blocks, logits, drafts, real, max_new_tokens), blocks.cutting


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
    stages: Sequence[Cut],
    share: bool = False,
) -> tuple[Blocks, Tensor]:
    """The blocks after these prompts, and the last one's states.

    Args:
        adapter: Of the model.
        prompts: Full prompts.
        compressed: Of their pictures.
        repack: See `pack`.
        stages: Cuts inside the language model.
        share: Whether text that all prompts begin with may be run once; their states are then not returned.
    """
    states, layout = embedded(adapter, prompts, compressed, repack)
    common = _common_text(prompts, adapter.image_token) if share else 0
    if len(prompts) == 1 or not _WORTH * states.shape[1] < common < states.shape[1]:
        return (blocks := Blocks(adapter.decoder, layout, stages, compressed)), blocks.prompt(states)
    states, layout = _padded_behind(common, states, layout)
    return (blocks := Blocks(adapter.decoder, layout, stages, compressed)), blocks.prompt(states, common)


def greedy(
    adapter: Adapter,
    blocks: Blocks,
    logits: Tensor,
    begun: Sequence[list[int]],
    limit: int,
    note: Callable[[Tensor, Tensor], None] = lambda rows, ended: None,
) -> list[list[int]]:
    """Decodes on from the logits of the next token; `note` hears which rows just answered and which are at an end."""
    ends = torch.tensor(adapter.ends, device=logits.device)
    rows = torch.arange(len(logits), device=logits.device)
    answers = [list(tokens) for tokens in begun]
    while True:
        chosen = logits.argmax(-1)
        ended = torch.isin(chosen, ends)
        note(rows, ended)
        for row, token in zip(rows[~ended].tolist(), chosen[~ended].tolist(), strict=True):
            answers[row].append(token)
        open_ = ~ended & torch.tensor([len(answers[row]) < limit for row in rows.tolist()], device=rows.device)
        if not open_.any():
            return answers
        if not open_.all():
            blocks.select(open_.nonzero()[:, 0])
            rows, chosen = rows[open_], chosen[open_]
        embeds = adapter.inner.get_input_embeddings()(chosen[:, None])
        states = blocks.step(embeds, torch.ones_like(chosen[:, None], dtype=torch.bool))
        logits = adapter.decoder.logits(states[:, -1])


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
    """The whole prompt of every question, and a picture for each."""
    owner = [row for row, conversation in enumerate(conversations) for _ in conversation.suffixes]
    return [[*c.prefix, *suffix] for c in conversations for suffix in c.suffixes], compressed.chosen(owner)


def _spoken(conversations: Sequence[Conversation], references: Sequence[Sequence[int]]) -> Sequence[Conversation]:
    """Every question with its reference behind it, but for the last token, which foretells nothing that is asked."""
    if not references:
        return conversations
    given = iter(references)
    return [Conversation(c.prefix, [[*s, *next(given)[:-1]] for s in c.suffixes]) for c in conversations]


def _common_text(prompts: Sequence[Sequence[int]], image: int) -> int:
    """How many tokens before any picture all prompts begin with."""
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
) -> tuple[Blocks, Tensor]:
    """The last states before and within every question, whose picture was run once for all that is asked about it."""
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


def _undrafted(adapter: Adapter, blocks: Blocks, states: Tensor, limit: int) -> Answers:
    """Greedy answers from the states of the prompts."""
    first = adapter.decoder.logits(states[:, -1])
    unknown = torch.full((len(first),), torch.nan, device=first.device)
    return Answers(greedy(adapter, blocks, first, [[] for _ in first], limit), unknown)


def _verified(
    adapter: Adapter,
    blocks: Blocks,
    logits: Float[Tensor, "row token word"],
    drafts: Int[Tensor, "row token"],
    real: Bool[Tensor, "row token"],
    limit: int,
) -> Answers:
    """Greedy answers after references, all but the last token of each, were run as drafts of them.

    What the model would have said itself is kept of a draft (Leviathan et al. 2023, arXiv 2211.17192, section 2.3, with
    greedy choice), the rest is taken back and said anew.

    Args:
        adapter: Of the model.
        blocks: After the drafts.
        logits: With which each token of the drafts was foretold.
        drafts: The references, left-padded.
        real: Which of their tokens are there.
        limit: Longest answer.
    """
    ends = torch.tensor(adapter.ends, device=drafts.device)
    agreed = ((logits.argmax(-1) == drafts) | ~real).cumprod(1).bool() & real
    agreed[:, -1] &= torch.isin(drafts[:, -1], ends)  # anything else has not been run
    said, length = agreed.sum(1), real.sum(1)
    answers = [
        [token for token in row[len(row) - int(n) :][: int(k)] if token not in adapter.ends][:limit]
        for row, n, k in zip(drafts.tolist(), length, said, strict=True)
    ]
    if (going := (said < length) & (said < limit)).any():
        rows = going.nonzero()[:, 0]
        if (run := drafts.shape[1] - 1) > 0:
            blocks.forget((real & ~agreed)[:, :run])
        blocks.select(rows)
        next_ = logits[rows, (drafts.shape[1] - length + said)[rows]]
        rest = greedy(adapter, blocks, next_, [answers[i] for i in rows.tolist()], limit)
        for row, tokens in zip(rows.tolist(), rest, strict=True):
            answers[row] = tokens
    return Answers(answers, _log_probability(logits, drafts, real))


def _log_probability(
    logits: Float[Tensor, "row token word"], tokens: Int[Tensor, "row token"], real: Bool[Tensor, "row token"]
) -> Float[Tensor, " row"]:
    """Of the real ones of these tokens, by the logits with which each was foretold."""
    return (logits.float().log_softmax(-1).gather(2, tokens[..., None])[..., 0] * real).sum(1)
