"""Causal effects of patches: changes of an answer's log-probability when patches are removed, without attention."""

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
from foveate.models.runtime.generation import Conversation, Decoding, answer, likelihood
from foveate.models.runtime.images import Texts

SEQUENCES = 48  # default number of token sequences in one forward pass
Progress = Callable[[int], object]
"""Called after each forward pass with its number of sequences."""


def _ignore(count: int) -> None: ...


@dataclass(frozen=True, eq=False)
class AnsweredBatch:
    """Questions about a few images, with the answers whose log-probability is measured.

    Attributes:
        adapter: The model.
        conversations: One conversation per image.
        tokens: Visual tokens of all patches, as the projector returns them.
        answers: One answer per question, in the order of the conversations, with its end token. They need not be the
            model's own: `dataclasses.replace` exchanges them.
    """

    adapter: Adapter
    conversations: Sequence[Conversation]
    tokens: Float[Tensor, "image patch dim"]
    answers: Sequence[Sequence[int]]

    @classmethod
    @torch.inference_mode()
    def generate(
        cls, adapter: Adapter, images: ImageBatch, prompts: Sequence[Sequence[Sequence[int]]], max_new_tokens: int
    ) -> "AnsweredBatch":
        """Generates the model's own answers from all patches.

        Args:
            adapter: The model.
            images: The images, each once.
            prompts: Full prompts of each image.
            max_new_tokens: Maximum length of an answer; a shorter one has its end token.
        """
        whole = Identity().compress(images)
        conversations = [Conversation.from_prompts(group, adapter.placeholders) for group in prompts]
        generated = answer(adapter, conversations, whole, False, Decoding(max_new_tokens)).tokens
        answers = [tokens + adapter.ends[:1] * (len(tokens) < max_new_tokens) for tokens in generated]
        return cls(adapter, conversations, whole.tokens, answers)

    def select(self, questions: Collection[int]) -> "AnsweredBatch":
        """Returns the batch of some of the questions, in order, without images that none of them is about."""
        numbers = count()
        selected = [[s for s in c.suffixes if next(numbers) in questions] for c in self.conversations]
        images = [image for image, suffixes in enumerate(selected) if suffixes]
        return replace(
            self,
            conversations=[Conversation(self.conversations[i].prefix, selected[i]) for i in images],
            tokens=self.tokens[images],
            answers=[answer for i, answer in enumerate(self.answers) if i in questions],
        )


def answer_batch(
    encodings: Encodings, batch: Sequence[VQASample], prompts: Sequence[Sequence[int]], max_new_tokens: int
) -> AnsweredBatch:
    """Returns the questions of a batch with the model's own answers.

    Args:
        encodings: The data set's encodings.
        batch: The questions; those about an image follow each other.
        prompts: Their full prompts.
        max_new_tokens: Maximum length of an answer, as in `AnsweredBatch.generate`.
    """
    groups = [list(group) for _, group in groupby(range(len(batch)), key=lambda i: batch[i].image_id)]
    images = encodings.batch([batch[group[0]].image_id for group in groups], torch.empty(0), Texts([], [], None))
    return AnsweredBatch.generate(
        encodings.loaded.adapter, images, [[prompts[i] for i in group] for group in groups], max_new_tokens
    )


def kept_log_probability(
    answered: AnsweredBatch,
    kept: Bool[Tensor, "set row patch"],
    repack: bool = False,
    batch_size: int = SEQUENCES,
    progress: Progress = _ignore,
) -> Float[Tensor, "set question"]:
    """Returns the log-probability of the answers when the prompt holds only the kept patches of each image.

    Tokens are removed after the tower, which encodes the whole image.

    Args:
        answered: The questions and answers.
        kept: Sets of kept patches, with a row per image, which is then run once for all of its questions, or with a row
            per question.
        repack: Whether the remaining tokens are numbered consecutively; else they keep their positions.
        batch_size: Maximum number of token sequences in one forward pass.
        progress: Called after each forward pass with its number of sequences.

    Raises:
        ValueError: The number of rows is neither that of the images nor that of the questions.
    """
    groups = _groups(answered, kept.shape[1], batch_size)
    jobs = [(number, group) for number in range(len(kept)) for group in groups]
    step = max(1, batch_size // max(len(group.questions) for group in groups))
    values = torch.empty(len(kept), len(answered.answers), device=answered.tokens.device)
    for start in range(0, len(jobs), step):
        some = jobs[start : start + step]
        rows = torch.stack([kept[number, group.row] for number, group in some]).to(values.device)
        cells = [(number, question) for number, group in some for question in group.questions]
        found = likelihood(
            answered.adapter,
            [group.conversation for _, group in some],
            _compressed(answered, rows, [group.image for _, group in some]),
            repack,
            [answered.answers[question] for _, question in cells],
        )
        sets, questions = torch.tensor(cells, device=values.device).unbind(1)
        values[sets, questions] = found
        progress(len(cells))
    return values


class Occlusion(NamedTuple):
    """Log-probability of each answer with the whole image, and its drop when each block is removed."""

    whole: Float[Tensor, " question"]
    drop: Float[Tensor, "question block"]


def block_occlusion(
    answered: AnsweredBatch, side: int, batch_size: int = SEQUENCES, progress: Progress = _ignore
) -> Occlusion:
    """Returns the drop of each answer's log-probability when one block of patches is removed.

    Args:
        answered: The questions and answers.
        side: Side of a block in patches; the blocks are those of `squares`, and `spread` divides their values among
            patches.
        batch_size: Maximum number of token sequences in one forward pass.
        progress: Called after each forward pass with its number of sequences.
    """
    block = squares(answered.adapter.tower.grid, side)
    kept = block != torch.arange(-1, int(block.max()) + 1)[:, None]  # block -1: nothing is removed
    kept = kept[:, None].expand(-1, len(answered.conversations), -1)
    values = kept_log_probability(answered, kept, batch_size=batch_size, progress=progress)
    return Occlusion(values[0], (values[0] - values[1:]).T)


def block_shapley(
    answered: AnsweredBatch,
    side: int,
    orders: Int[Tensor, "image order block"],
    batch_size: int = SEQUENCES,
    progress: Progress = _ignore,
) -> Float[Tensor, "question order block"]:
    """Returns the marginal contribution of each block to the log-probability of each answer, per order.

    Blocks are added one after the other, starting from no patch; the contribution of a block is the rise when it is
    added. The mean over all possible orders is the Shapley value. Within each order the contributions sum to the
    difference between all patches and none. Unlike `block_occlusion`, this also credits a block for content that other
    blocks show too.

    Source: Shapley 1953, "A value for n-person games"; Castro et al. 2009, Computers and Operations Research 36, 1726
    (sampled orders).

    Args:
        answered: The questions and answers.
        side: Side of a block in patches; the blocks are those of `squares`.
        orders: Orders in which the blocks of each image are added; see `draw_orders`.
        batch_size: Maximum number of token sequences in one forward pass.
        progress: Called after each forward pass with its number of sequences.
    """
    block = squares(answered.adapter.tower.grid, side)
    images, count, blocks = orders.shape
    rank = orders.argsort(-1)[:, :, block]  # the step at which each patch is added
    partial = torch.cat([rank[:, order] < torch.arange(1, blocks)[:, None, None] for order in range(count)])
    ends = torch.tensor([False, True])[:, None, None].expand(2, images, len(block))
    kept = torch.cat([ends, partial])
    values = kept_log_probability(answered, kept, batch_size=batch_size, progress=progress).cpu()
    none, every = values[:2].expand(count, 2, -1).unbind(1)
    between = values[2:].unflatten(0, (count, blocks - 1))
    rises = torch.cat([none[:, None], between, every[:, None]], 1).diff(dim=1)
    owner = [image for image, one in enumerate(answered.conversations) for _ in one.suffixes]
    return rises.permute(2, 0, 1).gather(2, orders.argsort(-1)[owner])


def draw_orders(names: Sequence[str], blocks: int, pairs: int) -> Int[Tensor, "image order block"]:
    """Draws random orders of the blocks of each image, each followed by its reverse to lower the variance.

    Args:
        names: Names of the images, the only seeds of their orders.
        blocks: Number of blocks.
        pairs: Number of orders that are drawn and reversed.
    """
    seeds = [int.from_bytes(sha256(name.encode()).digest()[:8]) for name in names]
    drawn = [np.random.default_rng(seed).permuted(np.tile(np.arange(blocks), (pairs, 1)), axis=1) for seed in seeds]
    orders = torch.from_numpy(np.stack(drawn))
    return torch.stack([orders, orders.flip(-1)], 2).flatten(1, 2)


def cross_fitted_best(rises: Float[Tensor, "question order block"]) -> Float[Tensor, " question"]:
    """Returns the value of the best block: selected on one half of the orders, estimated on the other, both averaged.

    The maximum of noisy estimates is biased upwards; an estimate that is independent of the selection is not.

    Args:
        rises: Contributions of the blocks in at least two orders, as `block_shapley` returns them.
    """
    halves = torch.stack([some.mean(1) for some in rises.tensor_split(2, dim=1)])
    best = halves.argmax(-1, keepdim=True)
    return halves.gather(2, best.flip(0))[..., 0].mean(0)


def thing_occlusion(
    answered: AnsweredBatch,
    things: Bool[Tensor, "question thing patch"],
    whole: Float[Tensor, " question"],
    batch_size: int = SEQUENCES,
    progress: Progress = _ignore,
) -> Float[Tensor, "question thing"]:
    """Returns the drop of each answer's log-probability when all patches of one needed thing are removed.

    Args:
        answered: The questions and answers.
        things: Patches that show each thing; the drop is NaN where no patch does.
        whole: Log-probability with the whole image, as in `Occlusion`.
        batch_size: Maximum number of token sequences in one forward pass.
        progress: Called after each forward pass with its number of sequences.
    """
    drop = torch.full(things.shape[:2], torch.nan)
    for thing in range(things.shape[1]):
        known = things[:, thing].any(1)
        if known.any():
            some, kept = answered.select(set(known.nonzero()[:, 0].tolist())), ~things[known, thing][None]
            without = kept_log_probability(some, kept, batch_size=batch_size, progress=progress)[0]
            drop[known, thing] = whole[known].cpu() - without.cpu()
    return drop


class Curve(NamedTuple):
    """Log-probabilities when only the highest-scored share of the patches is kept, and when it is removed."""

    insertion: Float[Tensor, "question share"]
    deletion: Float[Tensor, "question share"]


def insertion_deletion(
    answered: AnsweredBatch,
    scores: Float[Tensor, "row patch"],
    shares: Sequence[float],
    batch_size: int = SEQUENCES,
    progress: Progress = _ignore,
) -> Curve:
    """Returns the insertion and deletion curves of some scores.

    Args:
        answered: The questions and answers.
        scores: One row per image or per question; the lower index wins among equal scores.
        shares: Shares of the patches between 0 and 1, the points of the curves.
        batch_size: Maximum number of token sequences in one forward pass.
        progress: Called after each forward pass with its number of sequences.

    Raises:
        ValueError: Some scores are NaN, which cannot be ranked.
        BudgetError: A share is not between 0 and 1.
    """
    if unknown := int(scores.isnan().sum()):
        raise ValueError(f"{unknown} of {scores.numel()} scores are NaN, which cannot be ranked")
    patches = scores.shape[1]
    counts = [resolve_keep(float(share), patches) if share else 0 for share in shares]  # a budget cannot be 0
    rank = rank_within(scores, torch.zeros_like(scores, dtype=torch.long))
    best = rank < torch.tensor(counts, device=rank.device)[:, None, None]
    kept = torch.cat([best, ~best])
    values = kept_log_probability(answered, kept, batch_size=batch_size, progress=progress)
    insertion, deletion = values.T.chunk(2, 1)
    return Curve(insertion, deletion)


class _Group(NamedTuple):
    """Questions about an image that share a set of patches, and their row in the sets."""

    conversation: Conversation
    image: int
    row: int
    questions: Sequence[int]


def _groups(answered: AnsweredBatch, rows: int, batch_size: int) -> list[_Group]:
    images, questions = len(answered.conversations), len(answered.answers)
    if rows not in (images, questions):
        raise ValueError(
            f"{rows} rows of patches for {questions} questions about {images} images: give one row per image or per "
            "question"
        )
    shared, groups, first = rows == images, [], 0
    for image, (prefix, suffixes) in enumerate((c.prefix, c.suffixes) for c in answered.conversations):
        size = max(1, batch_size) if shared else 1
        for start in range(0, len(suffixes), size):
            some = suffixes[start : start + size]
            numbers = range(first + start, first + start + len(some))
            groups.append(_Group(Conversation(prefix, some), image, image if shared else numbers[0], numbers))
        first += len(suffixes)
    return groups


def _compressed(answered: AnsweredBatch, kept: Bool[Tensor, "row patch"], images: Sequence[int]) -> Compressed:
    """Returns the kept patches of the given images."""
    compression = Compression(listed(kept))
    arrangements = (Arrangement((answered.adapter.tower.grid,)),) * len(kept)
    tokens = compression.apply(answered.tokens[list(images)])
    return Compressed(tokens, Decision(kept.float(), compression), arrangements)
