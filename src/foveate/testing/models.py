"""The contract of model adapters as a test class, against a reference without padding, cache and packing."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from foveate.compressors import DecoderCompressor, Identity, VisionCompressor
from foveate.compressors.base import compressed_by
from foveate.core.arrangement import Arrangement
from foveate.core.compression import Compression
from foveate.core.errors import FoveateError
from foveate.mergers import Nearest
from foveate.models.backbone.adapter import Adapter
from foveate.models.backbone.grouping import group_by_shape, in_groups
from foveate.models.loading.load import adapt
from foveate.models.runtime.generation import Conversation, Decoding, answer, answer_each
from foveate.models.runtime.images import LiveImages
from foveate.scorers import PromptAttention, Random
from foveate.testing.families import END, PAD, START
from foveate.testing.recomputation import features_of, logits_with_hidden, recomputed_logits

_NEW = 4  # tokens of an answer
_TEXT = ([5, 6, 7], [8], [9, 10, 11, 12])  # before the images, between them, and after them
_BATCH = ([0], [1, 3], [2])  # the images of each prompt of a batch


class ModelContract(ABC):
    """The tests that every adapter must pass; a subclass provides the model and its images."""

    tolerance = 2e-5

    @abstractmethod
    def model(self) -> nn.Module:
        """Returns a tiny random model of the family."""

    def adapter(self, model: nn.Module) -> Adapter:
        """Returns the adapter of the model, or that of its videos."""
        return adapt(model)

    def placeholders(self, adapter: Adapter, number: int, count: int) -> list[int]:
        """Returns the tokens of an image in a prompt: its placeholders, and the text between them if there is any.

        Args:
            adapter: The adapter.
            number: Number of the image.
            count: Number of its placeholders.
        """
        return [adapter.image_token] * count

    def attachable(self, model: nn.Module) -> Any:  # noqa: ANN401 (a stock model, or a `LoadedModel` of it)
        """Returns what compressors are attached to: the model, with a tokenizer if its adapter reads the prompts."""
        return model

    @abstractmethod
    def image_inputs(self) -> list[dict[str, Tensor]]:
        """Returns the model inputs of each of four images, two of which have the same shape."""

    def test_without_compression_outputs_equal_the_stock_model(self) -> None:
        model, adapter, inputs, _ = self._batch()
        plain = model.generate(**inputs, **_OPTIONS)
        with Identity().attached(self.attachable(model)):
            output = model.generate(**inputs, **_OPTIONS)
        assert torch.equal(output.sequences, plain.sequences)
        self._close(torch.stack(output.logits), torch.stack(plain.logits))
        assert adapter.image_token in output.sequences[0]

    def test_compressed_logits_equal_a_recomputation_prompt_by_prompt(self) -> None:
        for compressor in (
            VisionCompressor(Random(), 5),
            VisionCompressor(Random(), 0.4, positions="original", separators=False),
            VisionCompressor(Random(1), 4, merger=Nearest(), merge_projected=True, positions="original"),
        ):
            model, adapter, inputs, prompts = self._batch()
            with compressor.attached(self.attachable(model)) as run:
                output = model.generate(**inputs, **_OPTIONS)
            compression = run.decisions[0].compression
            numbers = [number for group in _BATCH for number in group]
            for row, (prompt, group) in enumerate(zip(prompts, _BATCH, strict=True)):
                parts = [_row(compression, numbers.index(number)) for number in group]
                tokens = output.sequences[row, -_NEW:].tolist()
                logits = recomputed_logits(
                    adapter, prompt, [self.image_inputs()[n] for n in group], parts, compressor, tokens
                )
                self._close(torch.stack([step[row] for step in output.logits]), logits)

    def test_results_do_not_depend_on_the_batch(self) -> None:
        model, adapter, inputs, prompts = self._batch()
        compressor = VisionCompressor(Random(), 5)
        with compressor.attached(self.attachable(model)) as batched:
            whole = model.generate(**inputs, **_OPTIONS)
        kept = [row.tolist() for row in batched.kept]
        for row, (prompt, group) in enumerate(zip(prompts, _BATCH, strict=True)):
            one = {**self._joined([self.image_inputs()[n] for n in group]), "input_ids": torch.tensor([prompt])}
            one["attention_mask"] = torch.ones_like(one["input_ids"])
            with compressor.attached(self.attachable(model)) as run:
                alone = model.generate(**_with_token_types(adapter, one), **_OPTIONS)
            numbers = [number for g in _BATCH for number in g]
            assert [k.tolist() for k in run.kept] == [kept[numbers.index(number)] for number in group]
            self._close(torch.stack([step[row] for step in whole.logits]), torch.cat(alone.logits))

    def test_answers_of_evaluations_equal_stock_generate(self) -> None:
        model, adapter, _, _ = self._batch()
        compressor = VisionCompressor(Random(), 5)
        group = [0, 1, 2]
        images = self._joined([self.image_inputs()[n] for n in group])
        lengths = [self._length(adapter, n) for n in group]
        arrangements = adapter.arrangements(images, lengths)
        prompts = [self._prompt(adapter, [number]) for number in group]

        compressed = in_groups(
            lambda some: compressed_by(compressor, some, adapter.extra_needs),
            group_by_shape(arrangements),
            _live_images(adapter, images, arrangements),
        )
        turns = [Conversation.from_prompts([prompt, [*prompt, 13]], adapter.placeholders) for prompt in prompts]
        found = answer(adapter, turns, compressed, compressor.repack, Decoding(_NEW)).tokens
        for row, number in enumerate(group):
            for which, prompt in enumerate((prompts[row], [*prompts[row], 13])):
                one = {**self.image_inputs()[number], "input_ids": torch.tensor([prompt])}
                one["attention_mask"] = torch.ones_like(one["input_ids"])
                with compressor.attached(self.attachable(model)):
                    alone = model.generate(**_with_token_types(adapter, one), **_OPTIONS).sequences[0, -_NEW:]
                assert found[2 * row + which] == alone.tolist()

    def test_cuts_inside_the_language_model_equal_hiding_the_tokens_from_later_blocks(self) -> None:
        compressor = DecoderCompressor(PromptAttention(1), 4, layer=2)
        model, adapter, inputs, prompts = self._batch([[0], [1], [2]])
        if adapter.decoder.both_ways or adapter.decoder.window is not None:
            return self._refused(compressor, model, inputs)
        with compressor.attached(self.attachable(model)) as run:
            output = model.generate(**inputs, **_OPTIONS)
        for row, prompt in enumerate(prompts):
            ids = torch.tensor([prompt])
            newline = features_of(adapter, self.image_inputs()[row])[2]
            hidden = torch.zeros(len(prompt), dtype=torch.bool)
            patches = (ids[0] == adapter.image_token).nonzero()[:, 0][~newline]
            hidden[patches] = True
            hidden[patches[run.kept[row]]] = False
            logits = logits_with_hidden(adapter, ids, self.image_inputs()[row], hidden, 2)
            self._close(output.logits[0][row], logits)
        images = self._joined(self.image_inputs()[:3])
        arrangements = adapter.arrangements(images, [self._length(adapter, n) for n in range(3)])
        whole = in_groups(
            lambda some: compressed_by(compressor, some, adapter.extra_needs),
            group_by_shape(arrangements),
            _live_images(adapter, images, arrangements),
        )
        answers, pruning = answer_each(adapter, prompts, whole, False, compressor.cuts, Decoding(_NEW))
        assert [kept.tolist() for kept in pruning.decisions[0].compression.kept] == [kept.tolist() for kept in run.kept]
        assert answers.tokens == [row[-_NEW:].tolist() for row in output.sequences]

    def _refused(self, compressor: DecoderCompressor, model: Any, inputs: dict[str, Tensor]) -> None:  # noqa: ANN401
        """Checks that cuts are refused, which would change the window or the masks of the remaining tokens."""
        try:
            with compressor.attached(self.attachable(model)):
                model.generate(**inputs, **_OPTIONS)
        except FoveateError as error:
            assert "cuts inside the language model does not work with" in str(error)
        else:
            raise AssertionError("a cut inside the language model was not refused")

    def test_leaving_the_context_restores_the_model(self) -> None:
        model, _, inputs, _ = self._batch()
        before = model.generate(**inputs, **_OPTIONS)
        state = _state(model)
        with VisionCompressor(Random(), 5).attached(self.attachable(model)):
            model.generate(**inputs, **_OPTIONS)
        assert _state(model) == state
        assert torch.equal(torch.stack(model.generate(**inputs, **_OPTIONS).logits), torch.stack(before.logits))

    def _batch(
        self, groups: Sequence[Sequence[int]] = _BATCH
    ) -> tuple[Any, Adapter, dict[str, Tensor], list[list[int]]]:
        model: Any = self.model()
        adapter = self.adapter(model)
        prompts = [self._prompt(adapter, group) for group in groups]
        longest = max(map(len, prompts))
        ids = torch.tensor([[PAD] * (longest - len(prompt)) + prompt for prompt in prompts])
        inputs = self._joined([self.image_inputs()[number] for group in groups for number in group])
        return (
            model,
            adapter,
            _with_token_types(adapter, {**inputs, "input_ids": ids, "attention_mask": (ids != PAD).long()}),
            prompts,
        )

    def _prompt(self, adapter: Adapter, group: Sequence[int]) -> list[int]:
        prompt = list(_TEXT[0])
        for at, number in enumerate(group):
            run = self.placeholders(adapter, number, self._length(adapter, number))
            prompt += [*(_TEXT[1] if at else []), START, *run, END]
        return prompt + list(_TEXT[2])

    def _length(self, adapter: Adapter, number: int) -> int:
        return len(features_of(adapter, self.image_inputs()[number])[0])

    def _joined(self, images: Sequence[dict[str, Tensor]]) -> dict[str, Tensor]:
        return {name: torch.cat([image[name] for image in images]) for name in images[0]}

    def _close(self, found: Tensor, expected: Tensor) -> None:
        torch.testing.assert_close(found, expected, atol=self.tolerance * float(expected.detach().abs().max()), rtol=0)


_OPTIONS: dict[str, Any] = {
    "max_new_tokens": _NEW,
    "min_new_tokens": _NEW,
    "do_sample": False,
    "return_dict_in_generate": True,
    "output_logits": True,
}


def _live_images(
    adapter: Adapter, images: dict[str, Tensor], arrangements: Sequence[Arrangement]
) -> Callable[[list[int]], LiveImages]:
    return lambda rows: LiveImages(adapter, adapter.chosen(images, rows, arrangements), arrangements[rows[0]])


def _with_token_types(adapter: Adapter, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
    """Adds the types of the tokens if the stock model needs them."""
    return {**inputs, **adapter.token_types(inputs["input_ids"])}


def _row(compression: Compression, row: int) -> Compression:
    real = compression.real[row]
    mixing = compression.mixing
    return Compression(compression.origin[row : row + 1, real], None if mixing is None else mixing[row : row + 1, real])


def _state(model: nn.Module) -> dict[str, Any]:
    """Returns the state that an attachment changes: hooks, attributes, attention functions."""
    hooks = {n: (len(m._forward_hooks), len(m._forward_pre_hooks)) for n, m in model.named_modules()}
    configured: Any = {n: m for n, m in model.named_modules() if hasattr(m, "config")}
    kernels = {name: module.config._attn_implementation for name, module in configured.items()}
    return {"hooks": hooks, "kernels": kernels, "attributes": sorted(vars(model))}
