"""Architecture and vocabulary of the reference model, a LLaVA small enough to train on two CPU cores.

All parts are classes of transformers with their default random initialisation, so that the attention patterns of the
trained model are a result of training alone.
"""

from typing import cast

from tokenizers import Tokenizer
from tokenizers.decoders import WordPiece
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Sequence, Split, WhitespaceSplit
from tokenizers.processors import TemplateProcessing
from transformers import (
    CLIPConfig,
    CLIPImageProcessorPil,
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaNextImageProcessorPil,
    LlavaNextVideoConfig,
    LlavaProcessor,
    PreTrainedTokenizerFast,
)

from foveate.data.scenes.bitmaps import CHARACTERS, COLOURS, KINDS
from foveate.data.scenes.scene import GRID, IMAGE_SIZE
from foveate.data.scenes.tiles import PATCH

PATCH_SIZE = PATCH
PATCHES = GRID * GRID
FEATURE_LAYER = -2
WIDTH = 128
INITIAL_SPREAD = WIDTH**-0.5
"""Standard deviation of initial weights that keeps the size of states; LLaMA's 0.02 does so at a width of 2,500."""
PIXEL_MEAN, PIXEL_STD = 0.42, 0.26

_SPECIAL = ("<pad>", "<s>", "</s>", "<unk>", "<image>")
_ANSWERS = "yes no one two three four five six small large thin bold upper lower left right above below".split()
_QUESTIONS = (
    "USER ASSISTANT system is there a what color the which thing how many things are where from describe compare and "
    "list number of does text say texts"
).split()
_PUNCTUATION = ("?", ",", ":", ".")
VOCABULARY = {
    word: index
    for index, word in enumerate(
        dict.fromkeys((*_SPECIAL, *COLOURS, *KINDS, *CHARACTERS, *_ANSWERS, *_QUESTIONS, *_PUNCTUATION, "<end>"))
    )
}
END = VOCABULARY["<end>"]
"""Last token of the CLIP's texts: the highest ID, where both pooling rules of transformers pool."""
TEXT_LENGTH = 32
CHAT_TEMPLATE = (
    "{% for message in messages %}{{ message['role'].upper() }} : "
    "{% for part in message['content'] %}{% if part['type'] != 'text' %}<{{ part['type'] }}> "
    "{% else %}{{ part['text'] }} {% endif %}{% endfor %}{% endfor %}"
    "{% if add_generation_prompt %}ASSISTANT :{% endif %}"
)


def clip_config() -> CLIPConfig:
    """Returns a CLIP whose vision half is the tower of the LLaVA."""
    width = {"hidden_size": WIDTH, "intermediate_size": 256, "num_attention_heads": 4, "projection_dim": WIDTH}
    return CLIPConfig(
        projection_dim=WIDTH,
        vision_config={**width, "num_hidden_layers": 8, "image_size": IMAGE_SIZE, "patch_size": PATCH_SIZE},
        text_config={
            **width,
            "num_hidden_layers": 2,
            "vocab_size": len(VOCABULARY),
            "max_position_embeddings": TEXT_LENGTH,
            "pad_token_id": VOCABULARY["<pad>"],
            "bos_token_id": VOCABULARY["<s>"],
            "eos_token_id": END,
        },
    )


def llava_config(vision: CLIPVisionConfig) -> LlavaConfig:
    """Returns a LLaVA with this tower, a two-layer projector and eight LLaMA layers."""
    language = LlamaConfig(
        vocab_size=len(VOCABULARY),
        hidden_size=WIDTH,
        intermediate_size=320,
        initializer_range=INITIAL_SPREAD,
        num_hidden_layers=8,
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=512,
        pad_token_id=VOCABULARY["<pad>"],
        bos_token_id=VOCABULARY["<s>"],
        eos_token_id=VOCABULARY["</s>"],
        tie_word_embeddings=False,
    )
    return LlavaConfig(
        vision_config=vision,
        text_config=language,
        image_token_index=VOCABULARY["<image>"],
        image_seq_length=PATCHES,
        vision_feature_layer=FEATURE_LAYER,
        vision_feature_select_strategy="default",
        projector_hidden_act="gelu",
        tie_word_embeddings=False,
    )


def video_config(llava: LlavaConfig) -> LlavaNextVideoConfig:
    """Returns a LLaVA-NeXT-Video with tower, projector and language model of a LLaVA, which pools no patches."""
    text, vision = cast(LlamaConfig, llava.text_config), cast(CLIPVisionConfig, llava.vision_config)
    language = {**text.to_dict(), "vocab_size": len(VOCABULARY) + 1, "max_position_embeddings": 2048}
    return LlavaNextVideoConfig(
        vision_config=vision.to_dict(),
        text_config=LlamaConfig(**language),
        image_token_index=llava.image_token_index,
        video_token_index=len(VOCABULARY),
        vision_feature_layer=llava.vision_feature_layer,
        vision_feature_select_strategy=llava.vision_feature_select_strategy,
        projector_hidden_act=llava.projector_hidden_act,
        image_grid_pinpoints=[[IMAGE_SIZE, IMAGE_SIZE]],
        image_seq_length=PATCHES,
        spatial_pool_stride=1,
        video_seq_length=PATCHES,
        tie_word_embeddings=False,
    )


def make_tokenizer() -> PreTrainedTokenizerFast:
    """Returns a tokenizer with one token per word or punctuation mark of the questions and answers."""
    return _tokenizer(VOCABULARY, image_token="<image>")


def _tokenizer(vocabulary: dict[str, int], **special: str) -> PreTrainedTokenizerFast:
    tokenizer = Tokenizer(WordLevel(vocabulary, unk_token="<unk>"))
    marks = [Split(mark, "isolated") for mark in _PUNCTUATION]
    tokenizer.pre_tokenizer = Sequence([WhitespaceSplit(), *marks])
    tokenizer.decoder = WordPiece(cleanup=True)  # no blank before a punctuation mark
    tokenizer.post_processor = TemplateProcessing(single="<s> $A", special_tokens=[("<s>", VOCABULARY["<s>"])])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
        padding_side="left",
        extra_special_tokens=special,
        clean_up_tokenization_spaces=False,
    )


def make_video_tokenizer() -> PreTrainedTokenizerFast:
    """Returns the tokenizer of the model for videos: the same words and a placeholder of videos."""
    tokenizer = _tokenizer(VOCABULARY | {"<video>": len(VOCABULARY)}, image_token="<image>", video_token="<video>")
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer


def make_video_image_processor() -> LlavaNextImageProcessorPil:
    """Returns the image processor of the model for videos, for which an image is one tile."""
    side = {"height": IMAGE_SIZE, "width": IMAGE_SIZE}
    return LlavaNextImageProcessorPil(
        size=side,
        crop_size=side,
        do_center_crop=False,
        image_grid_pinpoints=[[IMAGE_SIZE, IMAGE_SIZE]],
        image_mean=[PIXEL_MEAN] * 3,
        image_std=[PIXEL_STD] * 3,
    )


def make_text_tokenizer() -> PreTrainedTokenizerFast:
    """Returns the tokenizer of the CLIP: the same words between <s> and <end>, padded on the right."""
    tokenizer = make_tokenizer()
    tokenizer.add_special_tokens({"eos_token": "<end>"})
    marks = [("<s>", VOCABULARY["<s>"]), ("<end>", END)]
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(single="<s> $A <end>", special_tokens=marks)
    tokenizer.padding_side = "right"
    tokenizer.model_max_length = TEXT_LENGTH
    return tokenizer


def make_processor() -> LlavaProcessor:
    """Returns a processor with the chat template and an image processor that does not crop."""
    side = {"height": IMAGE_SIZE, "width": IMAGE_SIZE}
    return LlavaProcessor(
        image_processor=CLIPImageProcessorPil(
            size=side,
            crop_size=side,
            do_center_crop=False,
            image_mean=[PIXEL_MEAN] * 3,
            image_std=[PIXEL_STD] * 3,
        ),
        tokenizer=make_tokenizer(),
        patch_size=PATCH_SIZE,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=CHAT_TEMPLATE,
    )
