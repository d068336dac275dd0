"""A shape for `make bench-gpu` that takes milliseconds."""

from transformers import CLIPImageProcessorPil, LlamaConfig, LlavaConfig

from benchmarks.shapes import Shape
from foveate.testing.families import IMAGE, clip_config, text_options


def tiny() -> Shape:
    """Returns the shape: a tower of four layers of 36 patches, and four blocks."""

    def config(tower: int, blocks: int) -> LlavaConfig:
        vision, text = clip_config(), LlamaConfig(**{**text_options(), "num_hidden_layers": blocks})
        vision.num_hidden_layers = tower
        layers = {"vision_feature_layer": -2, "vision_feature_select_strategy": "default"}
        return LlavaConfig(vision_config=vision, text_config=text, image_token_id=IMAGE, image_seq_length=36, **layers)

    side = {"height": 24, "width": 24}
    return Shape("LLaVA-1.5", 24, 4, 4, config, lambda: CLIPImageProcessorPil(size=side, crop_size=side), True, False)
