"""The sizes of a model's parts that determine its operations, read from its `config.json`."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any


@dataclass(frozen=True)
class DecoderShape:
    """The sizes of a LLaMA-like decoder: gated FFN of three matrices, grouped-query attention.

    Attributes:
        blocks: Number of blocks.
        hidden: Width of a token.
        intermediate: Inner width of the FFN; in a mixture of experts, that of all experts that a token passes.
        heads: Query heads.
        kv_heads: Key-value heads.
        head_dim: Width of a head.
        experts: Number of experts among which a router chooses; 0 without a mixture.
        dense_blocks: Number of leading blocks without a mixture of experts, if the others have one.
        dense_intermediate: Inner width of their FFN.
    """

    blocks: int
    hidden: int
    intermediate: int
    heads: int
    kv_heads: int
    head_dim: int
    experts: int = 0
    dense_blocks: int = 0
    dense_intermediate: int = 0

    @classmethod
    def of(cls, config: Mapping[str, Any]) -> "DecoderShape":
        """Reads the sizes from the fields of a decoder's `config.json`."""
        hidden, heads = config["hidden_size"], config["num_attention_heads"]
        dense = cls(
            config["num_hidden_layers"],
            hidden,
            config["intermediate_size"],
            heads,
            config.get("num_key_value_heads") or heads,
            config.get("head_dim") or hidden // heads,
        )
        if "moe_intermediate_size" not in config:
            return dense
        passed = config["num_experts_per_tok"] + config.get("n_shared_experts", 0)
        names = ("num_local_experts", "n_routed_experts", "num_experts")
        return replace(
            dense,
            intermediate=passed * config["moe_intermediate_size"],
            experts=next(config[name] for name in names if name in config),
            dense_blocks=config.get("first_k_dense_replace", 0),
            dense_intermediate=dense.intermediate,
        )


@dataclass(frozen=True)
class TowerShape:
    """The sizes of a ViT whose patches are embedded by a convolution without overlap.

    Attributes:
        blocks: Number of blocks that run.
        hidden: Width of a token.
        intermediate: Inner width of the FFN.
        patch_values: Number of values in one patch: 3 x side x side; twice as many for Qwen-VL's two frames.
        extra_tokens: Number of tokens that are not patches: 1 for [CLS].
        ffn_matrices: Number of matrices in the FFN: 2, or 3 if it is gated.
        windowed_blocks: Number of blocks in which a patch attends only to its window.
        window: Side of a window in patches; 0 without windows.
    """

    blocks: int
    hidden: int
    intermediate: int
    patch_values: int
    extra_tokens: int = 1
    ffn_matrices: int = 2
    windowed_blocks: int = 0
    window: int = 0


@dataclass(frozen=True)
class ProjectorShape:
    """The sizes of the layers between tower and decoder.

    Attributes:
        widths: Input, inner and output width; the last is 0 if there is one layer.
        copies: Number of projectors; Qwen3-VL has further ones for DeepStack features.
    """

    widths: tuple[int, int, int]
    copies: int = 1


@dataclass(frozen=True)
class ModelShape:
    """The sizes of a vision-language model of one of the supported families."""

    decoder: DecoderShape
    tower: TowerShape
    projector: ProjectorShape

    @classmethod
    def of(cls, config: Mapping[str, Any]) -> "ModelShape":
        """Reads the sizes from a `config.json`, or `config.to_dict()`."""
        vision, decoder = config["vision_config"], DecoderShape.of(config["text_config"])
        parts = _qwen_vl if "spatial_merge_size" in vision else _tiles
        tower, projector = parts(config, vision, decoder.hidden)
        return cls(decoder, tower, projector)


def _tiles(config: Mapping[str, Any], vision: Mapping[str, Any], out: int) -> tuple[TowerShape, ProjectorShape]:
    """Returns the sizes of a tower like CLIP's, SigLIP's or InternViT and its projector."""
    side, hidden = vision["patch_size"], vision["hidden_size"]
    rows, columns = (side, side) if isinstance(side, int) else side
    cls_token = int(config.get("vision_feature_select_strategy") == "default")
    tower = TowerShape(
        vision["num_hidden_layers"],
        hidden,
        vision["intermediate_size"],
        vision.get("num_channels", 3) * rows * columns,
        cls_token,
    )
    if ratio := config.get("downsample_ratio"):  # InternVL: a square of patches becomes one token
        return tower, ProjectorShape((hidden * round(1 / ratio) ** 2, out, out))
    if "vision_feature_layer" not in config:  # Gemma 3, Idefics3: one layer, after a pooling or a pixel shuffle
        return tower, ProjectorShape((hidden * config.get("scale_factor", 1) ** 2, out, 0))
    layers = config["vision_feature_layer"]
    return tower, ProjectorShape((hidden * (1 if isinstance(layers, int) else len(layers)), out, out))


def _qwen_vl(config: Mapping[str, Any], vision: Mapping[str, Any], out: int) -> tuple[TowerShape, ProjectorShape]:
    """Returns the sizes of the tower of Qwen2.5-VL (gated, mostly windowed), Qwen3-VL (DeepStack) or GLM (gated)."""
    side, hidden, merged = vision["patch_size"], vision["hidden_size"], vision["spatial_merge_size"]
    windowed = "fullatt_block_indexes" in vision
    tower = TowerShape(
        vision["depth"],
        hidden,
        vision["intermediate_size"],
        vision.get("in_channels", 3) * vision["temporal_patch_size"] * side**2,
        extra_tokens=0,
        ffn_matrices=3 if windowed else 2,
        windowed_blocks=vision["depth"] - len(vision["fullatt_block_indexes"]) if windowed else 0,
        window=vision["window_size"] // merged // side * merged if windowed else 0,
    )
    joined = hidden * merged**2
    if vision.get("model_type") in ("glm4v_vision", "glm4v_moe_vision"):
        wide = vision["out_hidden_size"]  # the projector is a convolution, a projection and a gated FFN, token by token
        tower = replace(tower, ffn_matrices=3, intermediate=wide)
        return tower, ProjectorShape((joined, wide, wide + 3 * vision["intermediate_size"]))
    levels = len(vision.get("deepstack_visual_indexes") or ())
    return tower, ProjectorShape((joined, joined, vision["out_hidden_size"]), 1 + levels)
