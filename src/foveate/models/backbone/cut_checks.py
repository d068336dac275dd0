"""What cuts inside the language model ask of it and of the prompts, refused before anything runs."""

from collections.abc import Sequence

from foveate.core.contracts import Cut
from foveate.core.errors import FoveateError, LayerError
from foveate.core.layers import resolve_layer
from foveate.core.needs import PromptRows, TokenKeys


def check_cuts(cuts: Sequence[Cut], depth: int, deepstack_levels: int = 0, window: int | None = None) -> None:
    """Refuses cuts that cannot work in a language model of so many blocks.

    Args:
        cuts: The cuts.
        depth: Number of blocks.
        deepstack_levels: Behind so many of the first ones more of the image is added to its tokens.
        window: How many of the last tokens some blocks attend to; None where all see everything.

    Raises:
        LayerError: A cut stands at a block that does not exist or has nothing before it, or reads a later one.
        FoveateError: The cuts do not follow each other, or the blocks see windows.
    """
    if cuts and window is not None:
        raise FoveateError(
            f"a method that cuts inside the language model cannot cut one whose blocks attend to a window of {window} "
            "tokens (sliding_window), for other tokens would lie in it: use a method that compresses before the "
            "language model"
        )
    layers = [resolve_layer(cut.layer, depth, "language model") for cut in cuts]
    for layer, cut in zip(layers, cuts, strict=True):
        if layer == 0:
            raise LayerError(
                f"layer {cut.layer}: nothing was seen before block 0; cut before a block 1..{depth - 1}, or compress "
                "on the vision side"
            )
        if layer < deepstack_levels:
            raise LayerError(
                f"layer {cut.layer}: behind its first {deepstack_levels} blocks this model adds to its visual tokens "
                f"what the tower saw in earlier layers; cut before a block {deepstack_levels}..{depth - 1}"
            )
        for need in cut.needs:
            if isinstance(need, PromptRows | TokenKeys):
                read = resolve_layer(need.layer, depth, "language model")
                if read > layer - isinstance(need, TokenKeys):
                    raise LayerError(f"{need}: it is read before block {layer}, when block {read} has not run")
    if layers != sorted(set(layers)):
        raise FoveateError(f"cuts before blocks {layers}: they must stand before different blocks, in ascending order")


def check_images(counts: Sequence[int]) -> None:
    """Refuses prompts whose visual tokens cannot be counted together.

    Args:
        counts: Number of images of each prompt.

    Raises:
        FoveateError: A prompt has none, or not as many as the others.
    """
    if 0 in counts:
        raise FoveateError(
            f"prompt {counts.index(0)} of the batch has no image, so it has no visual tokens to choose from: leave the "
            "`with` for prompts without an image"
        )
    if len(set(counts)) > 1:
        raise FoveateError(
            f"the prompts of this batch have {list(counts)} images: inside the language model a budget counts the "
            "visual tokens of a whole prompt, so put prompts with equally many images into one batch"
        )
