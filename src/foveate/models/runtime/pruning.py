"""Cuts inside the language model.

`Pruning` records the answers that cuts need while the prompt runs, removes tokens before the cuts' blocks, and
afterwards holds the mask and positions that each block needs in every later pass. The hooks of `hooked` call it.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad

from foveate.core.arrangement import Views
from foveate.core.checks import refuse_unranked, unranked
from foveate.core.compression import Compressed, Compression, Decision
from foveate.core.contracts import Cut
from foveate.core.errors import UnsupportedNeed
from foveate.core.layers import resolve_layer
from foveate.core.needs import Fingerprint, Need, PatchStates, PromptRows, Role, TokenKeys, TokenRoles, TokenStates
from foveate.core.trace import EXTRA, PADDING, Trace
from foveate.core.transfer import on_device
from foveate.functional.sequence import padded_index, positions
from foveate.models.backbone.cut_checks import check_cuts, check_images
from foveate.models.backbone.decoder import Decoder, Extent, Layout, extent_of, extents
from foveate.models.backbone.grouping import carried, concatenated, in_order
from foveate.models.runtime.prompt_attention import Tokens, prompt_rows, query_weights, raters, rotated


@dataclass(frozen=True, eq=False)
class Segment:
    """A range of blocks that hold the same tokens.

    Attributes:
        start: The first of these blocks.
        real: (batch, token) bool, marks the tokens in the cache of these blocks that are not padding.
        shift: (batch,) number of positions by which later tokens are moved back because of renumbering.
        padded: Whether a prompt had padding; None if the host does not know.
    """

    start: int
    real: Tensor
    shift: Tensor
    padded: bool | None


class Pruning:
    """The cuts of one batch of prompts, and the tokens that each block holds.

    Args:
        decoder: The language model.
        cuts: The cuts in the order of their blocks.
        layout: Role, patch and position of the prompts' tokens.
        answers: The vision side's answers to needs, on the visual tokens of each prompt.
        leaders: See `Compressed`.
    """

    def __init__(
        self,
        decoder: Decoder,
        cuts: Sequence[Cut],
        layout: Layout,
        answers: Mapping[Need, Tensor],
        leaders: Sequence[int] = (),
    ) -> None:
        self.decoder = decoder
        self.cuts = {resolve_layer(cut.layer, decoder.depth): cut for cut in cuts}
        self.views: list[Views] = [tuple(view for image in images for view in image.views) for images in layout.prompts]
        self.images = max(map(len, layout.prompts), default=1)  # equal for all prompts if there are cuts
        role = layout.role
        extent = layout.extent or extent_of(role)
        self.tokens = Tokens(role, layout.patch, layout.position, query_weights(role == Role.QUESTION), extent)
        self.following = layout.following  # position of the token after each prompt without cuts
        self.values, self.leaders = dict(answers), list(leaders)
        self.segments = [Segment(0, self.tokens.real, torch.zeros_like(role[:, 0]), extent.padded)]
        self.repeats = 1
        self.decisions: list[Decision] = []
        self.compressions: list[Compression] = []  # of the cuts, over the visual tokens before each
        self.per_block = [self.tokens.image_tokens] * decoder.depth
        self._wanted = {need for cut in cuts for need in cut.needs}
        self._running_ahead = False

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Records the attention that cuts need from earlier blocks while the context is active."""
        if not any(isinstance(need, PromptRows | TokenKeys) for need in self._wanted):
            yield
            return
        with self.decoder.tapped(self._listen):
            yield

    def enter(self, block: int, states: Tensor) -> Tensor:
        """Returns the input of block `block` for the prompt, after its cut if it has one."""
        self.tokens = self.tokens.to(states.device)  # blocks may be on different devices
        if block == 0 and any(isinstance(need, PromptRows) and need.query == "raters" for need in self._wanted):
            self.tokens = replace(self.tokens, rater=raters(states, self.tokens))
        if any(isinstance(need, PromptRows) and need.debiased and self._layer(need) == block for need in self._wanted):
            self._check_rotation(block, states)
        states = self._cut(block, self.cuts[block], states) if block in self.cuts else states
        for need in self._wanted - self.values.keys():  # the listener receives rotated queries and keys only
            if isinstance(need, PromptRows) and not need.rotary and self._layer(need) == block:
                self.values[need] = self._run_ahead(need, block, states)
        return states

    def segment(self, block: int) -> Segment:
        """Returns the segment that block `block` belongs to."""
        return next(segment for segment in reversed(self.segments) if segment.start <= block)

    def advance(self, real: Tensor, padded: bool | None = None) -> None:
        """Appends further tokens to all segments.

        Args:
            real: (batch, token) bool, marks the tokens that are not padding.
            padded: Whether there is padding; None if the host does not know.
        """
        self.segments = [
            replace(s, real=torch.cat([s.real, real.to(s.real.device)], 1), padded=_either(s.padded, padded))
            for s in self.segments
        ]

    def forget(self, tokens: Tensor) -> None:
        """Marks some of the last tokens as padding: (batch, token) bool, right-aligned."""
        self.segments = [
            replace(
                s,
                real=s.real & ~pad(tokens.to(s.real.device), (s.real.shape[1] - tokens.shape[1], 0)),
                padded=_either(s.padded, None),
            )
            for s in self.segments
        ]

    def keep(self, real: Tensor) -> None:
        """Replaces the mask of the tokens in the cache, after others have left it. There must be no cuts."""
        self.segments = [replace(segment, real=real, padded=None) for segment in self.segments]

    def expand(self, times: int) -> None:
        """Repeats every prompt `times` times, as for several beams."""
        if times == 1:
            return
        self.repeats = times
        self.following = self.following.repeat_interleave(times)
        self.tokens = self.tokens.each(lambda values: values.repeat_interleave(times, -2))
        self.views = [views for views in self.views for _ in range(times)]
        self.values = {need: value.repeat_interleave(times, 0) for need, value in self.values.items()}
        real = self.segments[0].real
        self.select(torch.arange(len(real), device=real.device).repeat_interleave(times))

    def select(self, rows: Tensor) -> None:
        """Selects the prompts to continue with; rows may repeat."""
        self.segments = [
            replace(s, real=s.real[rows.to(s.real.device)], shift=s.shift[rows.to(s.shift.device)])
            for s in self.segments
        ]

    def _listen(self, block: int, query: Tensor, key: Tensor, scaling: float) -> None:
        if self._running_ahead or query.shape[2] != self.tokens.role.shape[1]:
            return  # not the block's own pass over the prompt
        query, key = query.detach(), key.detach()[:, :, : query.shape[2]]  # a static cache has unused slots
        for need in self._wanted - self.values.keys():
            match need:
                case PromptRows(rotary=True) if self._layer(need) == block:
                    self.values[need] = prompt_rows(self.decoder, self.tokens, need, query, key, scaling)
                case TokenKeys() if self._layer(need) == block:
                    self.values[need] = key.transpose(1, 2)

    def _layer(self, need: PromptRows | TokenKeys) -> int:
        return resolve_layer(need.layer, self.decoder.depth)

    def _run_ahead(self, need: PromptRows, block: int, states: Tensor) -> Tensor:
        """Returns the answer of a block before its own pass."""
        rotation = self.decoder.rotation(states, self.tokens.position)
        return prompt_rows(self.decoder, self.tokens, need, *self._queries(block, states, rotation, need.rotary))

    def _queries(self, block: int, states: Tensor, rotation: tuple[Tensor, Tensor], rotary: bool = True) -> Any:  # noqa: ANN401
        """Returns queries, keys and scaling of a block, without positions unless `rotary`."""
        if not rotary:
            rotation = torch.ones_like(rotation[0]), torch.zeros_like(rotation[1])
        self._running_ahead = True
        try:
            return self.decoder.queries_and_keys(block, states, rotation)
        finally:
            self._running_ahead = False

    def _check_rotation(self, block: int, states: Tensor) -> None:
        """Checks that a block rotates whole heads by halves, as LLaMA does, which debiased attention assumes.

        Raises:
            UnsupportedNeed: The block rotates in another way.
        """
        if block in self.decoder.rotated_by_halves:
            return
        cosine, sine = self.decoder.rotation(states, self.tokens.position)
        query, turned = (
            self._queries(block, states, (cosine, sine), rotary)[0].to(states.device) for rotary in (False, True)
        )
        if cosine.shape[-1] != query.shape[-1] or not torch.allclose(
            rotated(query, cosine, sine), turned, rtol=0.02, atol=0.02 * float(turned.abs().max())
        ):
            raise UnsupportedNeed(
                f"debiased attention (SparseVLM+) in block {block} of {type(self.decoder.model).__name__}: expected "
                "rotary positions that rotate whole heads by halves, as in LLaMA; use debiased=False"
            )
        self.decoder.rotated_by_halves.add(block)

    def _cut(self, block: int, cut: Cut, states: Tensor) -> Tensor:
        tokens = self.tokens
        index, real = tokens.visual
        patch = tokens.patch.gather(1, index).masked_fill(~real, PADDING)
        values = {need: self._answer(need, block, states) for need in cut.needs}
        values = {
            need: value if isinstance(need, Fingerprint) else on_device(value, states.device)  # that is read on the CPU
            for need, value in values.items()
        }
        visual = self._visual(states)
        with torch.no_grad():
            decision = self._decide(cut, visual, values, patch)
        self._wanted = {need for later, cut in self.cuts.items() if later > block for need in cut.needs}
        patches = max(sum(view.patches for view in views) for views in self.views)
        self.decisions.append(_over_patches(decision, patch, patches, self.repeats))
        compression = in_order(decision.compression)
        self.compressions.append(_every(compression, self.repeats))
        wrong = unranked(decision.scores).sum() * (states.device.type != "cpu")  # where they have not been read
        order = self._rearrange(block, cut, compression, wrong)
        remaining = torch.cat([states, compression.apply(visual)], 1)
        return remaining.gather(1, order[..., None].expand(-1, -1, states.shape[2]))

    def _visual(self, states: Tensor) -> Tensor:
        """Returns the states of the visual tokens, with zeros for padding."""
        index, real = self.tokens.visual
        return states.gather(1, index[..., None].expand(-1, -1, states.shape[2])) * real[..., None]

    def _decide(self, cut: Cut, visual: Tensor, values: Mapping[Need, Tensor], patch: Tensor) -> Decision:
        """Returns the decision of a cut, which is called once for all prompts with images of the same shape."""
        groups: dict[Views, list[int]] = {}
        for row, views in enumerate(self.views):
            groups.setdefault(views, []).append(row)
        if len(groups) == 1:
            decision = cut.cut(visual.detach(), Trace(values, self.views[0], len(patch), patch, images=self.images))
        else:
            trace = Trace(values, self.views[0], len(patch), patch, images=self.images)
            decisions = [
                cut.cut(visual[on_device(rows, visual.device)].detach(), replace(trace.chosen(rows), views=views))
                for views, rows in ((views, torch.tensor(rows)) for views, rows in groups.items())
            ]
            decision = concatenated(decisions, [row for rows in groups.values() for row in rows])
        return decision.chosen(self.leaders) if self.leaders else decision

    def _answer(self, need: Need, block: int, states: Tensor) -> Tensor:
        match need:
            case PromptRows() if self._layer(need) == block:
                return self._run_ahead(need, block, states)
            case TokenStates():
                return self.decoder.normed(states)
            case TokenRoles():
                return self.tokens.role
            case PatchStates():
                return self._visual(states)
            case _ if need in self.values:
                return self.values[need]
        raise UnsupportedNeed(
            f"{need} cannot be answered at block {block}: a cut reads blocks from the previous cut up to {block}, and "
            "the answers of the vision side; choose another layer or need"
        )

    def _rearrange(self, block: int, cut: Cut, compression: Compression, wrong: Tensor) -> Tensor:
        """Replaces the visual tokens by the compressed ones: each where its patch was, extra ones after the last.

        Args:
            block: The block that follows.
            cut: The cut.
            compression: The compressed tokens.
            wrong: Number of scores that cannot be ranked.

        Returns:
            For each token of the new sequence its index in the old sequence followed by the compressed tokens.

        Raises:
            FoveateError: Some scores cannot be ranked.
        """
        tokens, (index, real), origin = self.tokens, self.tokens.visual, compression.origin
        at = index.gather(1, origin.clamp(min=0)) if origin.shape[1] else origin
        last = torch.where(real, index, 0).amax(1, keepdim=True)
        order, role = _order_and_role(tokens.role, origin, at, last)
        counts = (role != Role.PADDING).sum(1)
        # All that the host needs to know of the cut is copied at once, so that it waits once.
        read = torch.cat([torch.stack([wrong, counts.amax(), counts.amin()]), extents(role)]).tolist()
        refuse_unranked(read[0], index.numel(), cut)
        before = role.shape[1] - read[1]
        extent = Extent(read[2] < read[1], read[4], *(max(0, first - before) for first in read[5:]))
        order, role = order[:, before:], role[:, before:]
        remaining = role != Role.PADDING

        def joined(old: Tensor, new: Tensor, padding: int) -> Tensor:
            return torch.cat([old, new.to(old.dtype)], 1).gather(1, order).masked_fill(~remaining, padding)

        repacked = cut.repack and len(tokens.position) == 1
        self.tokens = Tokens(
            role=role,
            patch=joined(tokens.patch, torch.where(origin >= 0, tokens.patch.gather(1, at), EXTRA), PADDING),
            position=positions(remaining)[None]
            if repacked
            else torch.stack(
                [joined(axis, axis.gather(1, torch.where(origin >= 0, at, last)), 0) for axis in tokens.position]
            ),
            rater=query_weights(joined(tokens.rater, torch.zeros_like(origin), 0) > 0),
            extent=extent,
        )
        self.values = {
            need: _carried(need, value, compression, extent.visual)
            for need, value in self.values.items()
            if not isinstance(need, TokenKeys)
        }
        shift = self.following.to(remaining.device) - remaining.sum(1) if repacked else self.segments[-1].shift
        self.segments.append(Segment(block, remaining, shift, extent.padded))
        count = self.tokens.image_tokens[:: self.repeats].to(self.per_block[0].device)
        self.per_block = self.per_block[:block] + [count] * (self.decoder.depth - block)
        return order


def _order_and_role(role: Tensor, origin: Tensor, at: Tensor, last: Tensor) -> tuple[Tensor, Tensor]:
    """Returns the order of old tokens followed by compressed ones, what is dropped first, and the roles in this order.

    Args:
        role: The roles of the old tokens.
        origin: The origins of the compressed tokens.
        at: The column of each origin.
        last: The column of each prompt's last visual token.
    """
    stays = (role != Role.PADDING) & (role != Role.VISUAL)
    others = torch.where(stays, torch.arange(role.shape[1], device=role.device), -1).double()
    visual = torch.where(origin >= 0, at, torch.where(origin == EXTRA, last + 0.5, -1)).double()
    key = torch.cat([others, visual], 1)
    order = key.argsort(dim=1, stable=True)
    role = torch.cat([role, torch.full_like(origin, Role.VISUAL)], 1).gather(1, order)
    return order, role.masked_fill(key.gather(1, order) < 0, Role.PADDING)


def _either(one: bool | None, other: bool | None) -> bool | None:
    """Returns whether one of two is true, None if that is unknown."""
    return True if one or other else None if None in (one, other) else False


def pruning_of(decoder: Decoder, layout: Layout, cuts: Sequence[Cut], compressed: Compressed) -> Pruning:
    """Returns the pruning of a batch of prompts, with the vision side's answers arranged per prompt.

    Raises:
        FoveateError: The model or the prompts do not support the cuts.
    """
    if cuts:
        check_cuts(cuts, decoder.depth, window=decoder.window, both_ways=decoder.both_ways)
        check_images([len(images) for images in layout.prompts])
    if any(isinstance(need, PromptRows) for cut in cuts for need in cut.needs):
        decoder.check_readable()
    per_prompt = len(layout.prompts[0]) if cuts else 1
    read = {need for cut in cuts for need in cut.needs}
    values = {
        need: _of_prompts(need, value, compressed, per_prompt)
        for need, value in compressed.carried.items()
        if need in read
    }
    return Pruning(decoder, cuts, layout, values, compressed.leaders)


def _of_prompts(need: Need, value: Tensor, compressed: Compressed, images: int) -> Tensor:
    """Returns an answer per image as one per prompt, with the visual tokens in prompt order as patches.

    Raises:
        UnsupportedNeed: The answer cannot be carried into the language model, or is one per image and prompts have
            several.
    """
    if not need.carried:
        raise UnsupportedNeed(f"{need}: keys of the tower are not carried into the language model; use another plug-in")
    if need.patch_axis is None:
        return _of_prompts_whole(need, value.unflatten(0, (-1, images)))
    compression = compressed.decision.compression
    tokens = carried(need, value, compression).movedim(need.patch_axis, -1)
    tokens = tokens.unflatten(0, (-1, images)).movedim(1, -2).flatten(-2)
    index, _ = padded_index(compression.real.unflatten(0, (-1, images)).flatten(1))
    middle = [1] * (tokens.ndim - 2)
    index = index.reshape(len(index), *middle, -1).expand(*tokens.shape[:-1], -1)
    return tokens.gather(-1, index).movedim(-1, need.patch_axis)


def _of_prompts_whole(need: Need, value: Tensor) -> Tensor:
    """Returns one answer per prompt of answers without patches, shape (prompt, image, ...).

    Raises:
        UnsupportedNeed: The images of a prompt have different answers, and no rule makes one of them.
    """
    if isinstance(need, Fingerprint):
        odd = 2 * torch.arange(value.shape[1], device=value.device) + 1
        return (value * odd).sum(1) & torch.iinfo(torch.int64).max  # wraps around; one image keeps its own
    if not torch.equal(value, value[:, :1].expand_as(value)):  # those about the question are equal
        raise UnsupportedNeed(
            f"{need} is about one image, but these prompts have {value.shape[1]}: give one image per prompt, or use a "
            "method that reads it before the language model"
        )
    return value[:, 0]


def _carried(need: Need, value: Tensor, compression: Compression, visual: int) -> Tensor:
    """Returns an answer for the first `visual` tokens of a compression; others are padding of all prompts."""
    if need.patch_axis is None:
        return value
    value = carried(need, on_device(value, compression.origin.device), compression)
    return value.narrow(need.patch_axis, 0, visual)


def _every(compression: Compression, repeats: int) -> Compression:
    """Returns the compression of each prompt once, if prompts are repeated."""
    mixing = compression.mixing
    return Compression(compression.origin[::repeats], None if mixing is None else mixing[::repeats])


def _over_patches(decision: Decision, patch: Tensor, patches: int, repeats: int) -> Decision:
    """Converts a decision about visual tokens to one about patches, with NaN scores for patches dropped earlier."""
    decision = Decision(decision.scores[::repeats], Compression(decision.compression.origin[::repeats]))
    patch = patch[::repeats]
    slots = torch.where(patch >= 0, patch, patches)
    scores = decision.scores.new_full((len(patch), patches + 1), torch.nan)
    scores = scores.scatter_(1, slots, decision.scores)[:, :patches]
    origin = decision.compression.origin
    kept = patch.gather(1, origin.clamp(min=0)) if origin.shape[1] else origin
    return Decision(scores, Compression(torch.where(origin >= 0, kept, origin)))
