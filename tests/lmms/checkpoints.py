"""Tiny random checkpoint folders of the families that take pictures, with image processor and tokenizer."""

from pathlib import Path
from typing import Any, cast

from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    CLIPImageProcessorPil,
    GotOcr2ImageProcessorPil,
    LlavaNextImageProcessorPil,
    LlavaOnevisionImageProcessorPil,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    Qwen2VLImageProcessorPil,
)

from foveate.testing.families import BEGIN, END, FAMILIES, IMAGE, PAD, START, VIDEO, WORDS

_SQUARE = {"height": 24, "width": 24}
_POINTS = [[24, 48], [48, 24], [48, 48], [24, 72], [72, 24], [72, 72]]
_NAMED = {"<pad>": PAD, "<s>": BEGIN, "<unk>": 2, "<image>": IMAGE, "<video>": VIDEO, "<start>": START, "<end>": END}
_TEMPLATE = (
    "<s> {% for message in messages %}{{ message['role'] }} {% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}<image> {% else %}{{ part['text'] }} {% endif %}{% endfor %}{% endfor %}w9 "
)


def save_tiny(family: str, folder: Path) -> Path:
    """Writes an ordinary checkpoint folder, and returns it; words are `w10` to `w99`."""
    model = cast(PreTrainedModel, FAMILIES[family]())
    model.generation_config.pad_token_id = PAD
    model.save_pretrained(folder)
    _image_processor(family).save_pretrained(folder)
    _tokenizer(framed=family == "InternVL").save_pretrained(folder)
    return folder


def _tokenizer(framed: bool) -> PreTrainedTokenizerFast:
    numbered = {number: name for name, number in _NAMED.items()}
    words = models.WordLevel({numbered.get(i, f"w{i}"): i for i in range(WORDS)}, unk_token="<unk>")
    tokenizer = Tokenizer(words)
    tokenizer.pre_tokenizer = cast(Any, pre_tokenizers).WhitespaceSplit()
    frame: dict[str, Any] = {"start_image_token": "<start>", "end_image_token": "<end>"} if framed else {}
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<s>",
        pad_token="<pad>",
        unk_token="<unk>",
        chat_template=_TEMPLATE,
        extra_special_tokens={"image_token": "<image>", **frame},
    )


def _image_processor(family: str) -> Any:
    match family:
        case "LLaVA-1.5":
            return CLIPImageProcessorPil(size={"shortest_edge": 24}, crop_size=_SQUARE)
        case "LLaVA-NeXT":
            return LlavaNextImageProcessorPil(
                size={"shortest_edge": 24}, crop_size=_SQUARE, image_grid_pinpoints=_POINTS
            )
        case "LLaVA-OneVision":
            return LlavaOnevisionImageProcessorPil(size=_SQUARE, image_grid_pinpoints=_POINTS)
        case "InternVL":
            return GotOcr2ImageProcessorPil(size=_SQUARE, crop_to_patches=True, min_patches=1, max_patches=3)
        case _:
            pixels = {"shortest_edge": 64, "longest_edge": 1536}
            return Qwen2VLImageProcessorPil(patch_size=4, temporal_patch_size=2, merge_size=2, size=pixels)
