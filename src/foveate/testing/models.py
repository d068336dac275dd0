"""The contract of model adapters as a test class, against a reference that neither pads nor caches nor packs."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from foveate.compressors import DecoderCompressor, Identity, VisionCompressor
from foveate.compressors.base import compressed_by
from foveate.core.arrangement import Arrangement
from foveate.core.compression import Compression
from foveate.mergers import Nearest
from foveate.models.backbone.adapter import Adapter
from foveate.models.backbone.grouping import group_by_shape, in_groups
from foveate.models.loading.load import adapt
from foveate.models.runtime.generation import Conversation, answer, answer_each
from foveate.models.runtime.images import LiveImages
from foveate.scorers import PromptAttention, Random
from foveate.testing.families import END, PAD, START

_NEW = 4  # tokens of an answer
_TEXT = ([5, 6, 7], [8], [9, 10, 11, 12])  # before the images, between them, and after them
_TOGETHER = ([0], [1, 3], [2])  # which images each prompt of a batch has


class ModelContract(ABC):
    """What every adapter promises."""

    tolerance = 2e-5

    @abstractmethod
    def model(self) -> nn.Module:
        """A tiny random model of the family."""

    @abstractmethod
    def image_inputs(self) -> list[dict[str, Tensor]]:
        """The inputs about each of four images, of which two have the same shape."""

    def test_uncompressed_the_model_says_what_it_says_alone(self) -> None:
        model, adapter, inputs, _ = self._batch()
        plain = model.generate(**inputs, **_OPTIONS)
        with Identity().attached(model):
            seen = model.generate(**inputs, **_OPTIONS)
        assert torch.equal(seen.sequences, plain.sequences)
        self._close(torch.stack(seen.logits), torch.stack(plain.logits))
        assert adapter.image_token in seen.sequences[0]

    def test_compressed_logits_equal_a_recomputation_prompt_by_prompt(self) -> None:
        for compressor in (
            VisionCompressor(Random(), 5),
            VisionCompressor(Random(), 0.4, positions="original", separators=False),
            VisionCompressor(Random(1), 4, merger=Nearest(), merge_projected=True, positions="original"),
        ):
            model, adapter, inputs, prompts = self._batch()
            with compressor.attached(model) as run:
                seen = model.generate(**inputs, **_OPTIONS)
            compression = run.decisions[0].compression
            numbers = [number for group in _TOGETHER for number in group]
            for row, (prompt, group) in enumerate(zip(prompts, _TOGETHER, strict=True)):
                parts = [_row(compression, numbers.index(number)) for number in group]
                said = seen.sequences[row, -_NEW:].tolist()
                logits = self._recomputed(
                    adapter, prompt, [self.image_inputs()[n] for n in group], parts, compressor, said
                )
                self._close(torch.stack([step[row] for step in seen.logits]), logits)

    def test_an_image_alone_is_treated_as_in_a_batch(self) -> None:
        model, adapter, inputs, prompts = self._batch()
        compressor = VisionCompressor(Random(), 5)
        with compressor.attached(model) as together:
            whole = model.generate(**inputs, **_OPTIONS)
        kept = [row.tolist() for row in together.kept]
        for row, (prompt, group) in enumerate(zip(prompts, _TOGETHER, strict=True)):
            one = {**self._joined([self.image_inputs()[n] for n in group]), "input_ids": torch.tensor([prompt])}
            one["attention_mask"] = torch.ones_like(one["input_ids"])
            with compressor.attached(model) as run:
                alone = model.generate(**_typed(adapter, one), **_OPTIONS)
            numbers = [number for g in _TOGETHER for number in g]
            assert [k.tolist() for k in run.kept] == [kept[numbers.index(number)] for number in group]
            self._close(torch.stack([step[row] for step in whole.logits]), torch.cat(alone.logits))

    def test_the_projects_own_loop_answers_like_stock_generate(self) -> None:
        model, adapter, _, _ = self._batch()
        compressor = VisionCompressor(Random(), 5)
        group = [0, 1, 2]
        images = self._joined([self.image_inputs()[n] for n in group])
        lengths = [self._length(adapter, n) for n in group]
        arrangements = adapter.arrangements(images, lengths)
        prompts = [self._prompt(adapter, [length]) for length in lengths]

        seen = _seen(adapter, images, arrangements)
        compressed = in_groups(
            lambda some: compressed_by(compressor, some, adapter.extra_needs), group_by_shape(arrangements), seen
        )
        turns = [Conversation.from_prompts([prompt, [*prompt, 13]], adapter.image_token) for prompt in prompts]
        found = answer(adapter, turns, compressed, compressor.repack, _NEW).tokens
        for row, number in enumerate(group):
            for which, prompt in enumerate((prompts[row], [*prompts[row], 13])):
                one = {**self.image_inputs()[number], "input_ids": torch.tensor([prompt])}
                one["attention_mask"] = torch.ones_like(one["input_ids"])
                with compressor.attached(model):
                    alone = model.generate(**_typed(adapter, one), **_OPTIONS).sequences[0, -_NEW:]
                assert found[2 * row + which] == alone.tolist()

    def test_cuts_inside_the_language_model_equal_hiding_the_tokens_from_later_blocks(self) -> None:
        compressor = DecoderCompressor(PromptAttention(1), 4, layer=2)
        model, adapter, inputs, prompts = self._batch([[0], [1], [2]])
        with compressor.attached(model) as run:
            seen = model.generate(**inputs, **_OPTIONS)
        for row, prompt in enumerate(prompts):
            ids = torch.tensor([prompt])
            features, levels, newline = features_of(adapter, self.image_inputs()[row])
            hidden = torch.zeros(len(prompt), dtype=torch.bool)
            patches = (ids[0] == adapter.image_token).nonzero()[:, 0][~newline]
            hidden[patches] = True
            hidden[patches[run.kept[row]]] = False
            logits = self._hiding(adapter, ids, self.image_inputs()[row], features, levels, hidden, 2)
            self._close(seen.logits[0][row], logits)
        images = self._joined(self.image_inputs()[:3])
        arrangements = adapter.arrangements(images, [self._length(adapter, n) for n in range(3)])
        seen_by = _seen(adapter, images, arrangements)
        whole = in_groups(
            lambda some: compressed_by(compressor, some, adapter.extra_needs), group_by_shape(arrangements), seen_by
        )
        answers, pruning = answer_each(adapter, prompts, whole, False, compressor.cuts, _NEW)
        assert [kept.tolist() for kept in pruning.decisions[0].compression.kept] == [kept.tolist() for kept in run.kept]
        assert answers.tokens == [row[-_NEW:].tolist() for row in seen.sequences]

    def test_nothing_stays_behind(self) -> None:
        model, _, inputs, _ = self._batch()
        before = model.generate(**inputs, **_OPTIONS)
        state = _state(model)
        with VisionCompressor(Random(), 5).attached(model):
            model.generate(**inputs, **_OPTIONS)
        assert _state(model) == state
        assert torch.equal(torch.stack(model.generate(**inputs, **_OPTIONS).logits), torch.stack(before.logits))

    def _batch(
        self, groups: Sequence[Sequence[int]] = _TOGETHER
    ) -> tuple[Any, Adapter, dict[str, Tensor], list[list[int]]]:
        model: Any = self.model()
        adapter = adapt(model)
        prompts = [self._prompt(adapter, [self._length(adapter, n) for n in group]) for group in groups]
        longest = max(map(len, prompts))
        ids = torch.tensor([[PAD] * (longest - len(prompt)) + prompt for prompt in prompts])
        inputs = self._joined([self.image_inputs()[number] for group in groups for number in group])
        return (
            model,
            adapter,
            _typed(adapter, {**inputs, "input_ids": ids, "attention_mask": (ids != PAD).long()}),
            prompts,
        )

    def _prompt(self, adapter: Adapter, lengths: Sequence[int]) -> list[int]:
        prompt = list(_TEXT[0])
        for number, length in enumerate(lengths):
            prompt += [*(_TEXT[1] if number else []), START, *[adapter.image_token] * length, END]
        return prompt + list(_TEXT[2])

    def _length(self, adapter: Adapter, number: int) -> int:
        return len(features_of(adapter, self.image_inputs()[number])[0])

    def _joined(self, images: Sequence[dict[str, Tensor]]) -> dict[str, Tensor]:
        return {name: torch.cat([image[name] for image in images]) for name in images[0]}

    def _recomputed(
        self,
        adapter: Adapter,
        prompt: list[int],
        images: Sequence[dict[str, Tensor]],
        parts: Sequence[Compression],
        compressor: VisionCompressor,
        said: list[int],
    ) -> Tensor:
        """Logits of each answer token: whole sequences, one at a time, without padding or cache."""
        ids = torch.tensor([prompt])
        words = adapter.inner.get_input_embeddings()
        grids = [image["image_grid_thw"] for image in images if "image_grid_thw" in image]
        place = torch.arange(len(prompt))[None, None]
        if grids:
            kind = (ids == adapter.image_token).int()
            place, _ = adapter.inner.get_rope_index(ids, mm_token_type_ids=kind, image_grid_thw=torch.cat(grids))
        states, positions, visual, deep = [], [], [], [[] for _ in range(adapter.deepstack_levels)]
        placeholders = iter((ids[0] == adapter.image_token).nonzero()[:, 0].tolist())
        queue = list(zip(images, parts, strict=True))
        at = 0
        while at < len(prompt):
            if prompt[at] != adapter.image_token:
                states.append(words(ids[0, at : at + 1]))
                positions.append(place[:, 0, at : at + 1])
                visual.append(torch.zeros(1, dtype=torch.bool))
                at += 1
                continue
            image, compression = queue.pop(0)
            features, levels, newline = features_of(adapter, image)
            run = torch.tensor([next(placeholders) for _ in features])
            patches = (~newline).nonzero()[:, 0]
            offset = patches[compression.origin[0]]
            rows = _applied(compression, features[patches])
            if compressor.separators:
                offset = torch.cat([offset, newline.nonzero()[:, 0]])
                rows = torch.cat([rows, features[newline]])
            order = offset.argsort()
            states.append(rows[order])
            positions.append(place[:, 0, run[offset[order]]])
            visual.append(torch.ones(len(order), dtype=torch.bool))
            for level, values in zip(deep, levels, strict=True):
                level.append(_applied(compression, values))
            at += len(features)
        embeds, seen = torch.cat(states)[None], torch.cat(visual)[None]
        position = torch.cat(positions, 1)
        if compressor.repack and adapter.position_axes == 1:
            position = torch.arange(embeds.shape[1])[None]
        more = int(position.max()) + 1
        length = embeds.shape[1]
        embeds = torch.cat([embeds, words(torch.tensor([said[:-1]]))], 1)
        position = torch.cat([position, (torch.arange(len(said) - 1) + more).expand(len(position), -1)], 1)
        options: dict[str, Any] = {}
        if adapter.deepstack_levels:
            marked = torch.cat([seen, torch.zeros(1, len(said) - 1, dtype=torch.bool)], 1)
            options = {"visual_pos_masks": marked, "deepstack_visual_embeds": [torch.cat(level) for level in deep]}
        output = adapter.inner.language_model(
            inputs_embeds=embeds,
            attention_mask=torch.ones(embeds.shape[:2], dtype=torch.long),
            position_ids=position if len(position) == 1 else position[:, None],
            use_cache=False,
            **options,
        )
        return adapter.decoder.head(output.last_hidden_state)[0, length - 1 :]

    def _hiding(
        self,
        adapter: Adapter,
        ids: Tensor,
        image: dict[str, Tensor],
        features: Tensor,
        levels: Sequence[Tensor],
        hidden: Tensor,
        layer: int,
    ) -> Tensor:
        """Logits of the first answer token if from block `layer` on no token sees the hidden ones."""
        placeholder = ids[0] == adapter.image_token
        states = adapter.inner.get_input_embeddings()(ids)
        states[0, placeholder] = features
        place = torch.arange(ids.shape[1])[None, None]
        if "image_grid_thw" in image:
            grid = image["image_grid_thw"]
            place, _ = adapter.inner.get_rope_index(ids, mm_token_type_ids=placeholder[None].int(), image_grid_thw=grid)
        rotation = adapter.inner.language_model.rotary_emb(states, place if len(place) > 1 else place[0])
        earlier = torch.ones(ids.shape[1], ids.shape[1], dtype=torch.bool).tril()
        for number, block in enumerate(adapter.inner.language_model.layers):
            mask = earlier & (~hidden | torch.eye(len(hidden), dtype=torch.bool) if number >= layer else True)
            states = block(states, attention_mask=mask[None, None], position_embeddings=rotation)
            if number < len(levels):
                states[0, placeholder] += levels[number]
        return adapter.decoder.head(adapter.inner.language_model.norm(states))[0, -1]

    def _close(self, found: Tensor, expected: Tensor) -> None:
        torch.testing.assert_close(found, expected, atol=self.tolerance * float(expected.detach().abs().max()), rtol=0)


_OPTIONS: dict[str, Any] = {
    "max_new_tokens": _NEW,
    "min_new_tokens": _NEW,
    "do_sample": False,
    "return_dict_in_generate": True,
    "output_logits": True,
}


def _seen(
    adapter: Adapter, images: dict[str, Tensor], arrangements: Sequence[Arrangement]
) -> Callable[[list[int]], LiveImages]:
    return lambda rows: LiveImages(adapter, adapter.chosen(images, rows, arrangements), arrangements[rows[0]])


def _typed(adapter: Adapter, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
    """With the kinds of the tokens, where the stock model wants them."""
    if "image_grid_thw" not in inputs:
        return inputs
    return {**inputs, "mm_token_type_ids": (inputs["input_ids"] == adapter.image_token).int()}


def features_of(adapter: Adapter, image: dict[str, Tensor]) -> tuple[Tensor, list[Tensor], Tensor]:
    """What the stock model makes of one image: tokens, what is added in deeper blocks, and which are newlines."""
    model: Any = adapter.model
    get = model.get_video_features if adapter.modality == "video" else model.get_image_features
    output = get(**image, return_dict=True)
    tokens = output.pooler_output
    tokens = tokens.flatten(0, 1) if isinstance(tokens, Tensor) else torch.cat(list(tokens))
    levels = [torch.cat(list(level)) for level in getattr(output, "deepstack_features", None) or []]
    newline = getattr(adapter.inner, "image_newline", None)
    if newline is None or adapter.modality == "video":
        return tokens, levels, torch.zeros(len(tokens), dtype=torch.bool)
    return tokens, levels, (tokens == newline).all(1)


def _row(compression: Compression, row: int) -> Compression:
    real = compression.real[row]
    mixing = compression.mixing
    return Compression(compression.origin[row : row + 1, real], None if mixing is None else mixing[row : row + 1, real])


def _applied(compression: Compression, features: Tensor) -> Tensor:
    """Y = M X of one image; in a batch M has columns for the patches of the largest one."""
    if compression.mixing is None:
        return features[compression.origin[0]]
    return compression.mixing[0, :, : len(features)] @ features


def _state(model: nn.Module) -> dict[str, Any]:
    """What an attachment could leave behind: hooks, attributes, attention functions."""
    hooks = {n: (len(m._forward_hooks), len(m._forward_pre_hooks)) for n, m in model.named_modules()}
    configured: Any = {n: m for n, m in model.named_modules() if hasattr(m, "config")}
    kernels = {name: module.config._attn_implementation for name, module in configured.items()}
    return {"hooks": hooks, "kernels": kernels, "attributes": sorted(vars(model))}
