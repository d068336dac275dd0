"""Cuts inside the language model.

`Pruning` is the one policy: it records what the cuts need while the prompt runs, removes tokens before their blocks,
and afterwards says for every later pass which mask and positions each block must be given. The engine calls it from
its own loop over the blocks, `attach` from hooks inside stock `generate`.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad

from foveate.core.arrangement import Views
from foveate.core.compression import Compressed, Compression, Decision
from foveate.core.contracts import Cut
from foveate.core.errors import UnsupportedNeed
from foveate.core.layers import resolve_layer
from foveate.core.needs import Need, PromptRows, Role, TokenKeys, TokenRoles, TokenStates
from foveate.core.trace import EXTRA, PADDING, Trace
from foveate.functional.sequence import padded_index, positions
from foveate.models.backbone.cut_checks import check_cuts, check_images
from foveate.models.backbone.decoder import Decoder, Layout
from foveate.models.backbone.grouping import carried, in_order, together
from foveate.models.runtime.prompt_attention import Tokens, asking, prompt_rows, raters, rotated


@dataclass(frozen=True, eq=False)
class Segment:
    """The tokens that the blocks from `start` on know.

    Attributes:
        start: The first of these blocks.
        real: (batch, token) bool, in the key-value cache of these blocks.
        shift: (batch,) by how much their positions lag behind those before any cut.
    """

    start: int
    real: Tensor
    shift: Tensor


class Pruning:
    """The cuts of one batch of prompts.

    Args:
        decoder: The language model.
        cuts: In the order of their blocks.
        layout: What the prompt's tokens are.
        answers: Of the vision side, on the visual tokens of each prompt.
    """

    def __init__(
        self,
        decoder: Decoder,
        cuts: Sequence[Cut],
        layout: Layout,
        answers: Mapping[Need, Tensor],
    ) -> None:
        self.decoder = decoder
        self.cuts = {resolve_layer(cut.layer, decoder.depth): cut for cut in cuts}
        self.views: list[Views] = [tuple(view for image in images for view in image.views) for images in layout.prompts]
        role = layout.role
        self.tokens = Tokens(role, layout.place, layout.position, asking(role == Role.QUESTION))
        self.following = layout.following  # position of the token behind each prompt, were nothing cut
        self.values = dict(answers)
        self.segments = [Segment(0, self.tokens.real, torch.zeros_like(role[:, 0]))]
        self.repeats = 1
        self.decisions: list[Decision] = []
        self.per_block = [self.tokens.visible] * decoder.depth
        self._wanted = {need for cut in cuts for need in cut.needs}
        self._asking = False

    @contextmanager
    def listening(self) -> Iterator[None]:
        """While active, attention of the blocks before a cut is recorded as its cut needs it."""
        if not any(isinstance(need, PromptRows | TokenKeys) for need in self._wanted):
            yield
            return
        with self.decoder.tapped(self._listen):
            yield

    def enter(self, block: int, states: Tensor) -> Tensor:
        """The states that block `block` is to be given during the prompt."""
        self.tokens = self.tokens.to(states.device)  # blocks may lie on several
        if block == 0 and any(isinstance(need, PromptRows) and need.query == "raters" for need in self._wanted):
            self.tokens = replace(self.tokens, rater=raters(states, self.tokens))
        if any(isinstance(need, PromptRows) and need.debiased and self._layer(need) == block for need in self._wanted):
            self._check_rotation(block, states)
        states = self._cut(block, self.cuts[block], states) if block in self.cuts else states
        for need in self._wanted - self.values.keys():  # kernels are only given rotated queries and keys
            if isinstance(need, PromptRows) and not need.rotary and self._layer(need) == block:
                self.values[need] = self._asked(need, block, states)
        return states

    def segment(self, block: int) -> Segment:
        """What block `block` knows."""
        return next(segment for segment in reversed(self.segments) if segment.start <= block)

    def advance(self, real: Tensor) -> None:
        """Notes that more tokens follow: (batch, token) bool, which of them are real."""
        self.segments = [
            replace(segment, real=torch.cat([segment.real, real.to(segment.real.device)], 1))
            for segment in self.segments
        ]

    def forget(self, tokens: Tensor) -> None:
        """Of the tokens noted last these are none any more: (batch, token) bool."""
        self.segments = [
            replace(s, real=s.real & ~pad(tokens.to(s.real.device), (s.real.shape[1] - tokens.shape[1], 0)))
            for s in self.segments
        ]

    def expand(self, times: int) -> None:
        """Every prompt stands `times` times in the batch, as with several beams."""
        if times == 1:
            return
        self.repeats = times
        self.following = self.following.repeat_interleave(times)
        self.tokens = Tokens(*(getattr(self.tokens, f.name).repeat_interleave(times, -2) for f in fields(Tokens)))
        self.views = [views for views in self.views for _ in range(times)]
        self.values = {need: value.repeat_interleave(times, 0) for need, value in self.values.items()}
        self.select(torch.arange(len(self.segments[0].real)).repeat_interleave(times))

    def select(self, rows: Tensor) -> None:
        """Goes on with these prompts only, which may be repeated."""
        self.segments = [
            replace(s, real=s.real[rows.to(s.real.device)], shift=s.shift[rows.to(s.shift.device)])
            for s in self.segments
        ]

    def _listen(self, block: int, query: Tensor, key: Tensor, scaling: float) -> None:
        if self._asking or query.shape[2] != self.tokens.role.shape[1]:
            return  # asked ahead, or a later pass of one token at a time
        query, key = query.detach(), key.detach()[:, :, : query.shape[2]]  # a static cache has room for more
        for need in self._wanted - self.values.keys():
            match need:
                case PromptRows(rotary=True) if self._layer(need) == block:
                    self.values[need] = prompt_rows(self.decoder, self.tokens, need, query, key, scaling)
                case TokenKeys() if self._layer(need) == block:
                    self.values[need] = key.transpose(1, 2)

    def _layer(self, need: PromptRows | TokenKeys) -> int:
        return resolve_layer(need.layer, self.decoder.depth)

    def _asked(self, need: PromptRows, block: int, states: Tensor) -> Tensor:
        """The answer of a block ahead of its own pass."""
        rotation = self.decoder.rotation(states, self.tokens.position)
        return prompt_rows(self.decoder, self.tokens, need, *self._heard(block, states, rotation, need.rotary))

    def _heard(self, block: int, states: Tensor, rotation: tuple[Tensor, Tensor], rotary: bool = True) -> Any:  # noqa: ANN401
        if not rotary:
            rotation = torch.ones_like(rotation[0]), torch.zeros_like(rotation[1])
        self._asking = True
        try:
            return self.decoder.heard(block, states, rotation)
        finally:
            self._asking = False

    def _check_rotation(self, block: int, states: Tensor) -> None:
        """Refuses what is only known of heads that are rotated as LLaMA's are.

        Raises:
            UnsupportedNeed: This block does it otherwise.
        """
        if block in self.decoder.rotated_by_halves:
            return
        cosine, sine = self.decoder.rotation(states, self.tokens.position)
        query, turned = (
            self._heard(block, states, (cosine, sine), rotary)[0].to(states.device) for rotary in (False, True)
        )
        if cosine.shape[-1] != query.shape[-1] or not torch.allclose(
            rotated(query, cosine, sine), turned, rtol=0.02, atol=0.02 * float(turned.abs().max())
        ):
            raise UnsupportedNeed(
                f"debiased attention (SparseVLM+) in block {block} of {type(self.decoder.model).__name__}: what "
                "positions add to it is known of heads that are rotated whole and by halves, as LLaMA's; use "
                "debiased=False"
            )
        self.decoder.rotated_by_halves.add(block)

    def _cut(self, block: int, cut: Cut, states: Tensor) -> Tensor:
        tokens = self.tokens
        index, real = tokens.visual
        place = tokens.place.gather(1, index).masked_fill(~real, PADDING)
        values = {need: self._answer(need, block, states).to(states.device) for need in cut.needs}
        visual = states.gather(1, index[..., None].expand(-1, -1, states.shape[2])) * real[..., None]
        with torch.no_grad():
            decision = self._decided(cut, visual, values, place)
        self._wanted = {need for later, cut in self.cuts.items() if later > block for need in cut.needs}
        patches = max(sum(view.patches for view in views) for views in self.views)
        self.decisions.append(_on_patches(decision, place, patches, self.repeats))
        compression = in_order(decision.compression)
        order = self._rearranged(block, cut, compression)
        remaining = torch.cat([states, compression.apply(visual)], 1)
        return remaining.gather(1, order[..., None].expand(-1, -1, states.shape[2]))

    def _decided(self, cut: Cut, visual: Tensor, values: Mapping[Need, Tensor], place: Tensor) -> Decision:
        """What a cut makes of the visual tokens; it is asked about prompts whose images have the same shape."""
        groups: dict[Views, list[int]] = {}
        for row, views in enumerate(self.views):
            groups.setdefault(views, []).append(row)
        decisions = [
            cut.cut(
                visual[rows].detach(),
                Trace({need: value[rows] for need, value in values.items()}, views, len(rows), place[rows]),
            )
            for views, rows in groups.items()
        ]
        return together(decisions, [row for rows in groups.values() for row in rows])

    def _answer(self, need: Need, block: int, states: Tensor) -> Tensor:
        match need:
            case PromptRows() if self._layer(need) == block:
                return self._asked(need, block, states)
            case TokenStates():
                return self.decoder.normed(states)
            case TokenRoles():
                return self.tokens.role
            case _ if need in self.values:
                return self.values[need]
        raise UnsupportedNeed(
            f"{need}: at block {block} this is not known; blocks from the last cut up to {block} can be asked, and "
            "images only for what their model answers"
        )

    def _rearranged(self, block: int, cut: Cut, compression: Compression) -> Tensor:
        """Goes on with the compressed visual tokens: each at its place, extra ones behind the last visual one.

        Returns:
            For each token of the new sequence where it stands in the old one with the compressed tokens behind it.
        """
        tokens, (index, real) = self.tokens, self.tokens.visual
        origin = compression.origin
        at = index.gather(1, origin.clamp(min=0)) if origin.shape[1] else origin
        last = torch.where(real, index, 0).amax(1, keepdim=True)
        here = torch.arange(tokens.role.shape[1], device=origin.device)
        stays = torch.where(tokens.real & (tokens.role != Role.VISUAL), here, -1).double()
        arrives = torch.where(origin >= 0, at, torch.where(origin == EXTRA, last + 0.5, -1)).double()
        key = torch.cat([stays, arrives], 1)
        length = int((key >= 0).sum(1).max())
        order = key.argsort(dim=1, stable=True)[:, key.shape[1] - length :]
        there = key.gather(1, order) >= 0

        def joined(old: Tensor, new: Tensor, padding: int) -> Tensor:
            return torch.cat([old, new.to(old.dtype)], 1).gather(1, order).masked_fill(~there, padding)

        repacked = cut.repack and len(tokens.position) == 1
        self.tokens = Tokens(
            role=joined(tokens.role, torch.full_like(origin, Role.VISUAL), Role.PADDING),
            place=joined(tokens.place, torch.where(origin >= 0, tokens.place.gather(1, at), EXTRA), PADDING),
            position=positions(there)[None]
            if repacked
            else torch.stack(
                [joined(axis, axis.gather(1, torch.where(origin >= 0, at, last)), 0) for axis in tokens.position]
            ),
            rater=asking(joined(tokens.rater, torch.zeros_like(origin), 0) > 0),
        )
        self.values = {
            need: carried(need, value.to(origin.device), compression)
            for need, value in self.values.items()
            if not isinstance(need, TokenKeys)
        }
        shift = self.following.to(there.device) - there.sum(1) if repacked else self.segments[-1].shift
        self.segments.append(Segment(block, there, shift))
        count = self.tokens.visible[:: self.repeats].to(self.per_block[0].device)
        self.per_block = self.per_block[:block] + [count] * (self.decoder.depth - block)
        return order


def pruning_of(decoder: Decoder, layout: Layout, cuts: Sequence[Cut], compressed: Compressed) -> Pruning:
    """The cuts of a batch of prompts; what the vision side carries is laid out prompt by prompt.

    Raises:
        FoveateError: The cuts do not fit the model or the prompts.
    """
    if cuts:
        check_cuts(cuts, decoder.depth, window=decoder.window)
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
    return Pruning(decoder, cuts, layout, values)


def _of_prompts(need: Need, value: Tensor, compressed: Compressed, images: int) -> Tensor:
    """An answer per image as one per prompt, its patches as visual tokens in the order in which those stand.

    Raises:
        UnsupportedNeed: It says nothing of single patches, and a prompt has several images.
    """
    if not need.carried:
        raise UnsupportedNeed(f"{need}: keys of the tower are not carried into the language model; use another plug-in")
    if need.patch_axis is None:
        if images > 1:
            raise UnsupportedNeed(f"{need} is about one image, and these prompts have {images}: give one each")
        return value
    compression = compressed.decision.compression
    tokens = carried(need, value, compression).movedim(need.patch_axis, -1)
    tokens = tokens.unflatten(0, (-1, images)).movedim(1, -2).flatten(-2)
    index, _ = padded_index(compression.real.unflatten(0, (-1, images)).flatten(1))
    middle = [1] * (tokens.ndim - 2)
    index = index.reshape(len(index), *middle, -1).expand(*tokens.shape[:-1], -1)
    return tokens.gather(-1, index).movedim(-1, need.patch_axis)


def _on_patches(decision: Decision, place: Tensor, patches: int, repeats: int) -> Decision:
    """A decision about visual tokens as one about patches; those that were gone already have the score NaN."""
    decision = Decision(decision.scores[::repeats], Compression(decision.compression.origin[::repeats]))
    place = place[::repeats]
    slots = torch.where(place >= 0, place, patches)
    scores = decision.scores.new_full((len(place), patches + 1), torch.nan)
    scores = scores.scatter_(1, slots, decision.scores)[:, :patches]
    origin = decision.compression.origin
    places = place.gather(1, origin.clamp(min=0)) if origin.shape[1] else origin
    return Decision(scores, Compression(torch.where(origin >= 0, places, origin)))
