"""Checks of the cuts inside the language model against the model and the prompts, before anything runs."""

from collections.abc import Sequence

from foveate.core.contracts import Cut
from foveate.core.errors import FoveateError, LayerError, UnsupportedNeed
from foveate.core.layers import resolve_layer
from foveate.core.needs import PromptRows, TokenKeys


def check_cuts(
    cuts: Sequence[Cut],
    depth: int,
    deepstack_levels: int = 0,
    window: int | None = None,
    both_ways: bool = False,
) -> None:
    """Checks that a language model of `depth` blocks supports the cuts.

    Args:
        cuts: The cuts.
        depth: Number of blocks.
        deepstack_levels: Number of leading decoder blocks that receive DeepStack features.
        window: Size in tokens of the smallest sliding window of a block; None if all blocks attend to all tokens.
        both_ways: Whether the tokens of an image attend to each other in both directions.

    Raises:
        LayerError: A cut names a block that does not exist, or block 0, or reads a block that has not run.
        UnsupportedNeed: Blocks attend to sliding windows or in both directions.
        FoveateError: The cuts are not in ascending order.
    """
    if cuts and window is not None:
        raise UnsupportedNeed(
            f"a method that cuts inside the language model does not work with a sliding_window of {window} tokens, "
            "because a cut changes which tokens lie in the window: use a method that compresses before the language "
            "model"
        )
    if cuts and both_ways:
        raise UnsupportedNeed(
            "a method that cuts inside the language model does not work with image tokens that attend to each other in "
            "both directions: use a method that compresses before the language model"
        )
    layers = [resolve_layer(cut.layer, depth, "language model") for cut in cuts]
    for layer, cut in zip(layers, cuts, strict=True):
        if layer == 0:
            raise LayerError(
                f"layer {cut.layer}: no block has run before block 0; cut before a block 1..{depth - 1}, or compress "
                "on the vision side"
            )
        if layer < deepstack_levels:
            raise LayerError(
                f"layer {cut.layer}: this model adds DeepStack features to its visual tokens after each of its first "
                f"{deepstack_levels} blocks; cut before a block {deepstack_levels}..{depth - 1}"
            )
        for need in cut.needs:
            if isinstance(need, PromptRows | TokenKeys):
                read = resolve_layer(need.layer, depth, "language model")
                if read > layer - isinstance(need, TokenKeys):
                    raise LayerError(
                        f"{need}: the cut before block {layer} cannot read block {read}, which has not run by then"
                    )
    if layers != sorted(set(layers)):
        raise FoveateError(f"cuts before blocks {layers}: expected different blocks in ascending order")


def check_images(counts: Sequence[int]) -> None:
    """Checks that all prompts of a batch have equally many images, at least one.

    Args:
        counts: Number of images of each prompt.

    Raises:
        FoveateError: A prompt has no image, or another number of images than the others.
    """
    if 0 in counts:
        raise FoveateError(
            f"prompt {counts.index(0)} of the batch has no image, so there are no visual tokens to drop: leave the "
            "`with` block for prompts without an image"
        )
    if len(set(counts)) > 1:
        raise FoveateError(
            f"the prompts of this batch have {list(counts)} images: inside the language model the budget is that of "
            "all images of a prompt, so put only prompts with equally many images into one batch"
        )
