"""Checkpoint folders of tiny models of every family, with tokenizer, chat template and image processor."""

import json
from pathlib import Path
from typing import Any, NamedTuple

from tokenizers import Regex, Tokenizer
from tokenizers.decoders import Fuse
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Split
from transformers import (
    Gemma3Processor,
    Idefics3Processor,
    LlavaNextProcessor,
    LlavaProcessor,
    PreTrainedTokenizerFast,
)
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
from transformers.models.gemma3.image_processing_pil_gemma3 import Gemma3ImageProcessorPil
from transformers.models.glm4v.image_processing_pil_glm4v import Glm4vImageProcessorPil
from transformers.models.glm46v.image_processing_pil_glm46v import Glm46VImageProcessorPil
from transformers.models.got_ocr2.image_processing_pil_got_ocr2 import GotOcr2ImageProcessorPil
from transformers.models.idefics3.image_processing_pil_idefics3 import Idefics3ImageProcessorPil
from transformers.models.llava_next.image_processing_pil_llava_next import LlavaNextImageProcessorPil
from transformers.models.llava_onevision.image_processing_pil_llava_onevision import LlavaOnevisionImageProcessorPil
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil
from transformers.models.smolvlm.image_processing_pil_smolvlm import SmolVLMImageProcessorPil

from foveate.models.loading.processor import Parts
from foveate.testing.families import BEGIN, END, FAMILIES, IMAGE, LETTERS, PAD, SPREAD, START, VIDEO, WORDS

_SIDE, _PATCH = 24, 4
_SQUARE: dict[str, Any] = {"size": {"height": _SIDE, "width": _SIDE}}


class _ImageText(NamedTuple):
    """The text of a family's image: its token, the tokens around it, and the text in the chat template."""

    image: str = "<image>"
    start: str = "<start>"
    end: str = "<end>"
    in_template: str = "<image>\n"
    video: str = "<video>\n"


_TILES = _ImageText("<image>", "<fake_token_around_image>", "<global-img>", "<image>")
_QWEN = _ImageText("<|image_pad|>", "<|vision_start|>", "<|vision_end|>", "<|vision_start|><|image_pad|><|vision_end|>")
_QWEN = _QWEN._replace(video="<|vision_start|><video><|vision_end|>")
_GLM = _ImageText("<|image|>", "<|begin_of_image|>", "<|end_of_image|>", "<|begin_of_image|><|image|><|end_of_image|>")
_IMAGE_TEXTS = {
    "InternVL": _ImageText("<IMG_CONTEXT>", "<img>", "</img>", "<IMG_CONTEXT>\n"),
    "Qwen2.5-VL": _QWEN,
    "Qwen3-VL": _QWEN,
    "Qwen3-VL-MoE": _QWEN,
    "GLM-4.1V": _GLM,
    "GLM-4.5V": _GLM,
    "GLM-4.6V": _GLM,
    "Gemma 3": _ImageText("<image_soft_token>", "<start_of_image>", "<end_of_image>", "<start_of_image>"),
    "Idefics3": _TILES,
    "SmolVLM": _TILES,
}


def tokenizer(name: str) -> PreTrainedTokenizerFast:
    """Returns a tokenizer with one token per character and the special tokens of a family."""
    text = _IMAGE_TEXTS.get(name, _ImageText())
    special = {"<pad>": PAD, "<s>": BEGIN, "</s>": 2, "<unk>": 3}
    special |= {text.end: END, text.start: START, "<video>": VIDEO, text.image: IMAGE}
    extra = {"image_token": text.image, "video_token": "<video>"}
    extra |= {"start_image_token": text.start, "end_image_token": text.end, "context_image_token": text.image}
    extra |= {"boi_token": text.start, "eoi_token": text.end}
    if name in SPREAD:
        more = ["end_of_utterance", *(f"row_{r}_col_{c}" for r in (1, 2) for c in (1, 2))]
        extra |= {word: f"<{word}>" for word in more}
        special |= {f"<{word}>": 100 + i for i, word in enumerate(more)}
    vocabulary = special | LETTERS
    vocabulary |= {f"<{i}>": i for i in range(WORDS) if i not in vocabulary.values()}
    model = Tokenizer(WordLevel(vocabulary, unk_token="<unk>"))
    model.pre_tokenizer = Split(Regex("[\\s\\S]"), "isolated")
    model.decoder = Fuse()
    return PreTrainedTokenizerFast(
        tokenizer_object=model,
        pad_token="<pad>",
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
        padding_side="left",
        extra_special_tokens=extra,
        clean_up_tokenization_spaces=False,
        chat_template=_template(text.in_template, text.video),
    )


def _template(image: str, video: str) -> str:
    marks = [mark.replace("\n", "\\n") for mark in (video, image)]
    part = "{% if part['type'] == 'text' %}{{ part['text'] }}{% elif part['type'] == 'video' %}{{ '"
    part += marks[0] + "' }}{% else %}{{ '" + marks[1] + "' }}"
    return (
        "{% for message in messages %}{{ message['role'].upper() + ': ' }}{% for part in message['content'] %}"
        + part
        + "{% endif %}{% endfor %}{{ ' ' }}{% endfor %}{% if add_generation_prompt %}ASSISTANT:{% endif %}"
    )


def image_processor(name: str, points: Any = None) -> Any:  # noqa: ANN401 (a class per family)
    """Returns an image processor for images of 24 pixels, patches of 4, and the tiles of the family's tiny model.

    Args:
        name: Name of the family.
        points: Heights and widths of enlargements, for families that have them.
    """
    shortest = {"size": {"shortest_edge": _SIDE}, "crop_size": _SQUARE["size"]}
    match name:
        case "LLaVA-1.5":
            return CLIPImageProcessorPil(**_SQUARE, crop_size=_SQUARE["size"])
        case "LLaVA-NeXT" | "LLaVA-NeXT-Video":
            return LlavaNextImageProcessorPil(**shortest, image_grid_pinpoints=points)
        case "LLaVA-OneVision":
            return LlavaOnevisionImageProcessorPil(**_SQUARE, image_grid_pinpoints=points)
        case "Gemma 3":
            return Gemma3ImageProcessorPil(**_SQUARE)
        case "Idefics3" | "SmolVLM":
            kind: Any = Idefics3ImageProcessorPil if name == "Idefics3" else SmolVLMImageProcessorPil
            return kind(size={"longest_edge": 2 * _SIDE}, max_image_size={"longest_edge": _SIDE})
        case "GLM-4.1V" | "GLM-4.5V" | "GLM-4.6V":
            kind: Any = Glm46VImageProcessorPil if name == "GLM-4.6V" else Glm4vImageProcessorPil
            sizes = {"shortest_edge": 2 * 8 * 8, "longest_edge": 2 * 40 * 40}  # of two frames
            return kind(size=sizes, patch_size=_PATCH, temporal_patch_size=2, merge_size=2)
        case "InternVL":
            return GotOcr2ImageProcessorPil(**_SQUARE, min_patches=1, max_patches=3)
    sizes = {"shortest_edge": 8 * 8, "longest_edge": 40 * 40}
    return Qwen2VLImageProcessorPil(size=sizes, patch_size=_PATCH, temporal_patch_size=2, merge_size=2)


def save_family(name: str, folder: Path) -> Path:
    """Writes a checkpoint folder of a family's tiny model and returns its path."""
    model: Any = FAMILIES[name]()
    model.save_pretrained(folder)
    words = tokenizer(name)
    images = image_processor(name, getattr(model.config, "image_grid_pinpoints", None))
    template: Any = words.chat_template
    clip = {"patch_size": _PATCH, "vision_feature_select_strategy": "default", "num_additional_image_tokens": 1}
    match name:
        case "LLaVA-1.5":
            processor = LlavaProcessor(images, words, chat_template=words.chat_template, **clip)
        case "LLaVA-NeXT":
            processor = LlavaNextProcessor(images, words, chat_template=words.chat_template, **clip)
        case "Gemma 3":
            processor = Gemma3Processor(images, words, chat_template=template, image_seq_length=9)
        case "Idefics3":
            processor = Idefics3Processor(images, words, image_seq_len=9, chat_template=template)
        case _:
            processor = Parts(images, words)
    processor.save_pretrained(folder)
    if name.startswith("Qwen"):
        frames = {"size": {"shortest_edge": 8 * 8, "longest_edge": 2 * 24 * 24}}
        (folder / "video_preprocessor_config.json").write_text(json.dumps(frames), encoding="utf-8")
    return folder
