"""Baseline: [CLS] selection as in scripts of this field, with stock transformers calls, and timed.

One sample at a time, eager attention, all attention matrices of the tower returned, prompt and image processed again
for every question, stock `generate`; nothing is shared between questions, layers or budgets.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from PIL.Image import Image
from transformers import AutoModelForImageTextToText, AutoProcessor

from foveate.core.needs import ClsRows
from foveate.methods.fitting import at_budget
from foveate.models.loading.load import LoadedModel
from foveate.profiling.clock import Clock


class OneByOne:
    """A LLaVA-1.5 that keeps the patches with the largest [CLS] attention, summed over layers.

    Args:
        folder: Folder of the checkpoint.
        max_new_tokens: Largest number of tokens of an answer.
    """

    def __init__(self, folder: Path | str, max_new_tokens: int = 32) -> None:
        self.model: Any = AutoModelForImageTextToText.from_pretrained(folder, attn_implementation="eager").eval()
        self.processor: Any = AutoProcessor.from_pretrained(folder)
        self.max_new_tokens = max_new_tokens

    @torch.inference_mode()
    def answer(self, image: Image, question: str, layers: Sequence[int], keep: int) -> str:
        """Returns the answer to one question.

        Args:
            image: The image.
            question: The question.
            layers: Layers of the vision tower, from 0, whose attention is summed.
            keep: Number of kept patches.
        """
        turn = {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": question}]}
        chat = self.processor.apply_chat_template([turn], add_generation_prompt=True)
        inputs = self.processor(images=image, text=chat, return_tensors="pt").to(self.model.device)
        embeds = self._embeds(inputs["input_ids"][0], inputs["pixel_values"].to(self.model.dtype), layers, keep)
        tokens = self.model.generate(
            inputs_embeds=embeds,
            attention_mask=torch.ones_like(embeds[..., 0], dtype=torch.long),
            max_new_tokens=self.max_new_tokens,
            do_sample=False,
        )
        return self.processor.tokenizer.decode(tokens[0], skip_special_tokens=True).strip()

    def _embeds(self, ids: torch.Tensor, pixels: torch.Tensor, layers: Sequence[int], keep: int) -> torch.Tensor:
        inner, config = self.model.model, self.model.config
        output = inner.vision_tower(pixels, output_hidden_states=True, output_attentions=True)
        scores = torch.stack([output.attentions[layer][0].mean(0)[0, 1:] for layer in layers]).sum(0)
        kept = scores.topk(keep).indices.sort().values
        features = output.hidden_states[config.vision_feature_layer][:, 1:][:, kept]
        tokens = inner.multi_modal_projector(features)[0]
        words = self.model.get_input_embeddings()(ids)
        image = (ids == config.image_token_id).nonzero()[:, 0]
        return torch.cat([words[: image[0]], tokens, words[image[-1] + 1 :]])[None]


def timed(
    loaded: LoadedModel, new_tokens: int, part: str
) -> Callable[[Sequence[tuple[Image, str]], int, Clock], None] | None:
    """Returns a function that answers questions one at a time, with patches chosen by the layers of `vtc_cls`.

    Args:
        loaded: The model, of which another copy is loaded.
        new_tokens: Number of tokens of every answer.
        part: Name of the timed part.

    Returns:
        The function; None if the baseline does not support the model.
    """
    adapter = loaded.adapter
    if not (adapter.fixed_grid and adapter.tower.has_cls):
        return None
    baseline = OneByOne(str(loaded.model.name_or_path), new_tokens)
    baseline.model.to(loaded.model.device, loaded.model.dtype)
    baseline.model.generation_config.min_new_tokens = new_tokens
    needs = at_budget("vtc_cls", 0.5, adapter).needs
    layers = [layer for need in needs if isinstance(need, ClsRows) for layer in adapter.layers(need)]

    def answer(questions: Sequence[tuple[Image, str]], keep: int, clock: Clock) -> None:
        with clock.part(part):
            for image, question in questions:
                baseline.answer(image, question, layers, keep)

    return answer
