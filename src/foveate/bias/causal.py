"""Which patches an answer hangs on, found by taking them away; attention is not asked."""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from hashlib import sha256
from itertools import count, groupby
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from foveate.compressors import Identity
from foveate.core.arrangement import Arrangement
from foveate.core.budget import resolve_keep
from foveate.core.compression import Compressed, Compression, Decision
from foveate.core.contracts import ImageBatch
from foveate.data.sample import VQASample
from foveate.evaluation.encodings import Encodings
from foveate.functional.ranking import listed
from foveate.functional.regions import rank_within, squares
from foveate.models.backbone.adapter import Adapter
from foveate.models.runtime.generation import Conversation, answer, likelihood
from foveate.models.runtime.images import Texts

SEQUENCES = 48  # token sequences run at once, unless said otherwise


def _told_nobody(count: int) -> None: ...


@dataclass(frozen=True, eq=False)
class Inquiry:
    """The questions about a few images, and the answers whose probability tells what they hang on.

    Attributes:
        llava: The model.
        conversations: One per image.
        tokens: Every patch of the images, behind the projector.
        answers: One per question, conversation by conversation, the end token among them. `dataclasses.replace` asks
            about other answers than the model's own.
    """

    llava: Adapter
    conversations: Sequence[Conversation]
    tokens: Float[Tensor, "image patch dim"]
    answers: Sequence[Sequence[int]]

    @classmethod
    @torch.inference_mode()
    def own(
        cls, llava: Adapter, images: ImageBatch, prompts: Sequence[Sequence[Sequence[int]]], max_new_tokens: int
    ) -> "Inquiry":
        """Returns about what the model itself says when it sees everything.

        Args:
            llava: The model.
            images: The images, each once.
            prompts: For each image the full prompts about it.
            max_new_tokens: Longest answer; one that ends before has its end token.
        """
        whole = Identity().compress(images)
        conversations = [Conversation.from_prompts(group, llava.image_token) for group in prompts]
        said = answer(llava, conversations, whole, False, max_new_tokens).tokens
        answers = [tokens + llava.ends[:1] * (len(tokens) < max_new_tokens) for tokens in said]
        return cls(llava, conversations, whole.tokens, answers)

    def of(self, questions: Collection[int]) -> "Inquiry":
        """Returns the inquiry about some of its questions, in order; images without any of them are left out."""
        numbers = count()
        chosen = [[s for s in c.suffixes if next(numbers) in questions] for c in self.conversations]
        images = [image for image, suffixes in enumerate(chosen) if suffixes]
        return replace(
            self,
            conversations=[Conversation(self.conversations[i].prefix, chosen[i]) for i in images],
            tokens=self.tokens[images],
            answers=[answer for i, answer in enumerate(self.answers) if i in questions],
        )


def inquire(
    encodings: Encodings, batch: Sequence[VQASample], prompts: Sequence[Sequence[int]], max_new_tokens: int
) -> Inquiry:
    """Returns the model's own answers to a batch of questions; those about an image follow each other.

    Args:
        encodings: Of the data set.
        batch: The questions.
        prompts: Their full prompts.
        max_new_tokens: As in `Inquiry.own`.
    """
    groups = [list(group) for _, group in groupby(range(len(batch)), key=lambda i: batch[i].image_id)]
    images = encodings.batch([batch[group[0]].image_id for group in groups], torch.empty(0), Texts([], [], None))
    return Inquiry.own(
        encodings.loaded.adapter, images, [[prompts[i] for i in group] for group in groups], max_new_tokens
    )


def kept_log_probability(
    inquiry: Inquiry,
    stays: Bool[Tensor, "set row patch"],
    repack: bool = False,
    at_once: int = SEQUENCES,
    ran: Callable[[int], object] = _told_nobody,
) -> Float[Tensor, "set question"]:
    """Returns log-probability of the answers when only some patches of each image are left in the prompt.

    The tower has seen the whole image; tokens are removed behind it.

    Args:
        inquiry: The questions.
        stays: Sets of patches, with a row for each image, which is then run once for all questions about it, or with
            a row for each question.
        repack: Number the remaining tokens consecutively; else they keep their positions, and only content is missing.
        at_once: How many token sequences run at once.
        ran: Told after every step how many sequences it ran.

    Raises:
        ValueError: The rows are neither as many as the images nor as many as the questions.
    """
    pieces = _pieces(inquiry, stays.shape[1], at_once)
    jobs = [(number, piece) for number in range(len(stays)) for piece in pieces]
    step = max(1, at_once // max(len(piece.questions) for piece in pieces))
    values = torch.empty(len(stays), len(inquiry.answers), device=inquiry.tokens.device)
    for start in range(0, len(jobs), step):
        some = jobs[start : start + step]
        kept = torch.stack([stays[number, piece.row] for number, piece in some]).to(values.device)
        places = [(number, question) for number, piece in some for question in piece.questions]
        found = likelihood(
            inquiry.llava,
            [piece.conversation for _, piece in some],
            _only(inquiry, kept, [piece.image for _, piece in some]),
            repack,
            [inquiry.answers[question] for _, question in places],
        )
        sets, questions = torch.tensor(places, device=values.device).unbind(1)
        values[sets, questions] = found
        ran(len(places))
    return values


class Occlusion(NamedTuple):
    """Log-probability of each answer with the whole image, and by how much it falls without each block."""

    whole: Float[Tensor, " question"]
    drop: Float[Tensor, "question block"]


def occlusion(
    inquiry: Inquiry,
    side: int,
    repack: bool = False,
    at_once: int = SEQUENCES,
    ran: Callable[[int], object] = _told_nobody,
) -> Occlusion:
    """Returns by how much the log-probability of each answer falls when a block of patches is taken away.

    Args:
        inquiry: The questions.
        side: Of a block, in patches; the blocks are those of `squares`, and `spread` brings their values to patches.
        repack: As in `kept_log_probability`.
        at_once: Likewise.
        ran: Likewise.
    """
    block = squares(inquiry.llava.tower.grid, side)
    stays = block != torch.arange(-1, int(block.max()) + 1)[:, None]  # block -1: nothing is taken away
    stays = stays[:, None].expand(-1, len(inquiry.conversations), -1)
    values = kept_log_probability(inquiry, stays, repack, at_once, ran)
    return Occlusion(values[0], (values[0] - values[1:]).T)


def shapley(
    inquiry: Inquiry,
    side: int,
    orders: Int[Tensor, "image order block"],
    repack: bool = False,
    at_once: int = SEQUENCES,
    ran: Callable[[int], object] = _told_nobody,
) -> Float[Tensor, "question order block"]:
    """Returns by how much each block raises the log-probability of each answer, beside some other blocks.

    From no patch at all the blocks come in one after the other; a block's worth is the rise at its entry, order by
    order. The mean over all orders there are is the Shapley value. In each order the worths of a question sum up to the
    rise from no patch to all. Unlike `occlusion`, this finds what other blocks show as well.

    Source: Shapley 1953, "A value for n-person games"; Castro et al. 2009, Computers and Operations Research 36, 1726
    (sampled orders).

    Args:
        inquiry: The questions.
        side: Of a block, in patches; the blocks are those of `squares`.
        orders: For each image the orders in which its blocks come in; see `drawn_orders`.
        repack: As in `kept_log_probability`.
        at_once: Likewise.
        ran: Likewise.
    """
    block = squares(inquiry.llava.tower.grid, side)
    images, count, blocks = orders.shape
    rank = orders.argsort(-1)[:, :, block]  # when each patch comes in
    partial = torch.cat([rank[:, order] < torch.arange(1, blocks)[:, None, None] for order in range(count)])
    ends = torch.tensor([False, True])[:, None, None].expand(2, images, len(block))
    values = kept_log_probability(inquiry, torch.cat([ends, partial]), repack, at_once, ran).cpu()
    none, every = values[:2].expand(count, 2, -1).unbind(1)
    between = values[2:].unflatten(0, (count, blocks - 1))
    rises = torch.cat([none[:, None], between, every[:, None]], 1).diff(dim=1)
    owner = [image for image, said in enumerate(inquiry.conversations) for _ in said.suffixes]
    return rises.permute(2, 0, 1).gather(2, orders.argsort(-1)[owner])


def drawn_orders(names: Sequence[str], blocks: int, pairs: int) -> Int[Tensor, "image order block"]:
    """Returns random orders of the blocks of each image, each followed by its reverse, which lowers the variance.

    Args:
        names: Of the images, whose orders depend on nothing else.
        blocks: Number of blocks.
        pairs: How many orders are drawn.
    """
    seeds = [int.from_bytes(sha256(name.encode()).digest()[:8]) for name in names]
    drawn = [np.random.default_rng(seed).permuted(np.tile(np.arange(blocks), (pairs, 1)), axis=1) for seed in seeds]
    orders = torch.from_numpy(np.stack(drawn))
    return torch.stack([orders, orders.flip(-1)], 2).flatten(1, 2)


def cross_checked(rises: Float[Tensor, "question order block"]) -> Float[Tensor, " question"]:
    """Returns what the best block is worth, chosen by one half of the orders and valued by the other; the mean of both.

    The greatest of many estimates is too great where each has an error; that of a block chosen by others is not.

    Args:
        rises: As `shapley` gives them, of two orders or more.
    """
    halves = torch.stack([some.mean(1) for some in rises.tensor_split(2, dim=1)])
    best = halves.argmax(-1, keepdim=True)
    return halves.gather(2, best.flip(0))[..., 0].mean(0)


def removal(
    inquiry: Inquiry,
    things: Bool[Tensor, "question thing patch"],
    whole: Float[Tensor, " question"],
    repack: bool = False,
    at_once: int = SEQUENCES,
    ran: Callable[[int], object] = _told_nobody,
) -> Float[Tensor, "question thing"]:
    """Returns by how much the log-probability of each answer falls when all patches of one needed thing are taken away.

    Args:
        inquiry: The questions.
        things: Which patches show each thing; where none does, the fall is NaN.
        whole: Log-probability with the whole image, as `occlusion` gives it.
        repack: As in `kept_log_probability`.
        at_once: Likewise.
        ran: Likewise.
    """
    drop = torch.full(things.shape[:2], torch.nan)
    for thing in range(things.shape[1]):
        known = things[:, thing].any(1)
        if known.any():
            some = inquiry.of(set(known.nonzero()[:, 0].tolist()))
            left = kept_log_probability(some, ~things[known, thing][None], repack, at_once, ran)[0]
            drop[known, thing] = whole[known].cpu() - left.cpu()
    return drop


class Curve(NamedTuple):
    """Log-probabilities when only the best share of the patches is left, and when it is taken away."""

    insertion: Float[Tensor, "question share"]
    deletion: Float[Tensor, "question share"]


def curve(
    inquiry: Inquiry,
    scores: Float[Tensor, "row patch"],
    shares: Sequence[float],
    repack: bool = False,
    at_once: int = SEQUENCES,
    ran: Callable[[int], object] = _told_nobody,
) -> Curve:
    """Returns what the best patches by some scores do for the answers, and what the others do without them.

    Args:
        inquiry: The questions.
        scores: A row for each image, or one for each question; equal scores go to the lower index.
        shares: Of the patches, between 0 and 1.
        repack: As in `kept_log_probability`.
        at_once: Likewise.
        ran: Likewise.

    Raises:
        ValueError: Some scores are NaN, by which no patch is better or worse.
        BudgetError: A share is not between 0 and 1.
    """
    if wrong := int(scores.isnan().sum()):
        raise ValueError(f"{wrong} of {scores.numel()} scores are NaN, by which patches cannot be put in order")
    patches = scores.shape[1]
    counts = [resolve_keep(float(share), patches) if share else 0 for share in shares]  # no budget allows nothing
    rank = rank_within(scores, torch.zeros_like(scores, dtype=torch.long))
    best = rank < torch.tensor(counts, device=rank.device)[:, None, None]
    values = kept_log_probability(inquiry, torch.cat([best, ~best]), repack, at_once, ran)
    insertion, deletion = values.T.chunk(2, 1)
    return Curve(insertion, deletion)


class _Piece(NamedTuple):
    """What runs on one set of patches: questions about an image, and which row of the sets is theirs."""

    conversation: Conversation
    image: int
    row: int
    questions: Sequence[int]


def _pieces(inquiry: Inquiry, rows: int, at_once: int) -> list[_Piece]:
    images, questions = len(inquiry.conversations), len(inquiry.answers)
    if rows not in (images, questions):
        raise ValueError(
            f"{rows} rows of patches for {questions} questions about {images} images: give one row for each "
            "image, or one for each question"
        )
    shared, pieces, first = rows == images, [], 0
    for image, (prefix, suffixes) in enumerate((c.prefix, c.suffixes) for c in inquiry.conversations):
        size = max(1, at_once) if shared else 1
        for start in range(0, len(suffixes), size):
            some = suffixes[start : start + size]
            numbers = range(first + start, first + start + len(some))
            pieces.append(_Piece(Conversation(prefix, some), image, image if shared else numbers[0], numbers))
        first += len(suffixes)
    return pieces


def _only(inquiry: Inquiry, stays: Bool[Tensor, "row patch"], images: Sequence[int]) -> Compressed:
    """Returns the given patches of the given images."""
    compression = Compression(listed(stays))
    arrangements = (Arrangement((inquiry.llava.tower.grid,)),) * len(stays)
    tokens = compression.apply(inquiry.tokens[list(images)])
    return Compressed(tokens, Decision(stays.float(), compression), arrangements)
