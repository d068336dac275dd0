"""The file of kept patches: for each image the grid, the kept, merged and dropped patches, scores and sources.

https://github.com/foveate/foveate/blob/main/docs/reference/kept_file.md has its schema.
"""

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from importlib.metadata import version
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from torch import Tensor

from foveate.core.arrangement import Arrangement
from foveate.core.compression import Compression
from foveate.core.errors import OutputError, message_of
from foveate.core.storage import atomic_write
from foveate.core.trace import EXTRA, PADDING

if TYPE_CHECKING:  # transformers takes seconds to import
    import foveate.models.backbone.decoder
    import foveate.models.runtime.pruning

FORMAT = 1


class Token(NamedTuple):
    """A visual token of a prompt.

    Attributes:
        patch: The patch whose position it takes, numbered across the images of the prompt; `EXTRA` for none.
        weights: Weight of each source that it is made of. Sources are the patches of all images of the prompt, then
            the [CLS] of each image.
    """

    patch: int
    weights: dict[int, float]


def content_of(
    recipe: str,
    compression: Compression,
    layout: "foveate.models.backbone.decoder.Layout",
    pruning: "foveate.models.runtime.pruning.Pruning",
    scores: Tensor,
) -> dict[str, Any]:
    """Returns the content of the file.

    Args:
        recipe: The `repr` of the compressor.
        compression: What the vision side made of each image.
        layout: The prompts.
        pruning: The cuts that took place.
        scores: (image, patch) scores of the last cut, or of the vision side without cuts.
    """
    images, first = [], 0
    for prompt, arrangements in enumerate(layout.prompts):
        rows = range(first, first + len(arrangements))
        tokens = _in_prompt_order(_given(compression, rows, arrangements), layout.patch[prompt].tolist())
        for cut in pruning.compressions:
            tokens = list(_after_cut(cut, prompt, tokens))
        images += _images(prompt, arrangements, tokens, scores[first : first + len(arrangements)].tolist())
        first += len(arrangements)
    return {"format": FORMAT, "foveate": version("foveate"), "recipe": recipe, "images": images}


def write(path: Path, content: Mapping[str, Any]) -> None:
    """Writes the file, complete or not at all; an older file of that name is replaced.

    Raises:
        OutputError: The file cannot be written.
    """
    try:
        with atomic_write(path) as temporary:
            temporary.write_text(json.dumps(content, allow_nan=False) + "\n", encoding="utf-8")
    except OSError as error:
        raise OutputError(
            f"{path} cannot be written ({message_of(error)}): expected the name of a file in a folder that you may "
            "write to, such as kept.json"
        ) from error


def _given(compression: Compression, rows: range, arrangements: Sequence[Arrangement]) -> Iterator[Token]:
    """Yields the tokens that the vision side gives to one prompt, image by image."""
    starts = [*accumulate((image.patches for image in arrangements), initial=0)]
    for number, row in enumerate(rows):
        own, start = arrangements[number].patches, starts[number]
        for token, patch in enumerate(compression.origin[row].tolist()):
            if patch == PADDING:
                continue
            weights = _weights(compression, row, token)
            sources = {start + s if s < own else starts[-1] + number: weight for s, weight in weights.items()}
            yield Token(start + patch if patch >= 0 else EXTRA, sources)


def _in_prompt_order(tokens: Iterator[Token], patches: Sequence[int]) -> list[Token]:
    """Returns the tokens in the order of the prompt.

    Args:
        tokens: The tokens; those without a patch are in order already.
        patches: The patch of each token of the prompt, `EXTRA` or `PADDING`.
    """
    found = list(tokens)
    of_patch = {token.patch: token for token in found}
    extra = iter([token for token in found if token.patch == EXTRA])
    return [of_patch[patch] if patch >= 0 else next(extra) for patch in patches if patch != PADDING]


def _after_cut(compression: Compression, prompt: int, tokens: Sequence[Token]) -> Iterator[Token]:
    """Yields the tokens of a prompt after a cut.

    Args:
        compression: The cut's compression, whose sources are the visual tokens before it.
        prompt: Number of the prompt.
        tokens: The tokens before the cut.
    """
    for row, origin in enumerate(compression.origin[prompt].tolist()):
        if origin == PADDING:
            continue
        weights: dict[int, float] = {}
        for part, share in _weights(compression, prompt, row).items():
            for source, weight in tokens[part].weights.items():
                weights[source] = weights.get(source, 0.0) + share * weight
        yield Token(tokens[origin].patch if origin >= 0 else EXTRA, weights)


def _images(
    prompt: int, arrangements: Sequence[Arrangement], tokens: Sequence[Token], scores: Sequence[Sequence[float]]
) -> Iterator[dict[str, Any]]:
    """Yields the entry of each image of a prompt."""
    every = sum(image.patches for image in arrangements)
    start = 0
    for number, image in enumerate(arrangements):
        own = range(start, start + image.patches)
        sources = [source for token in tokens if (source := _source(token, own, every + number))]
        kept = {source["patch"] for source in sources} - {None}
        used = {patch for source in sources for patch in source["patches"]}
        patches = range(image.patches)
        yield {
            "prompt": prompt,
            "views": [
                {"rows": view.rows, "columns": view.columns, "box": box}
                for view, box in zip(image.views, image.boxes or [None] * len(image.views), strict=True)
            ],
            "kept": sorted(kept),
            "merged": sorted(used - kept),
            "dropped": [patch for patch in patches if patch not in kept | used],
            "scores": [score if math.isfinite(score) else None for score in scores[number][: image.patches]],
            "sources": sorted(sources, key=lambda source: (source["patch"] is None, source["patch"] or 0)),
        }
        start += image.patches


def _source(token: Token, own: range, cls: int) -> dict[str, Any] | None:
    """Returns the sources of a token in one image; None if it has none there.

    Args:
        token: The token.
        own: The image's patches, numbered across the images of the prompt.
        cls: Number of the image's [CLS] among the sources.
    """
    patches = sorted(source for source in token.weights if source in own)
    if token.patch not in own and not patches and cls not in token.weights:
        return None
    return {
        "patch": token.patch - own.start if token.patch in own else None,
        "patches": [patch - own.start for patch in patches],
        "weights": [token.weights[patch] for patch in patches],
        "cls": token.weights.get(cls, 0.0),
    }


def _weights(compression: Compression, row: int, token: int) -> dict[int, float]:
    """Returns the weight of each source of a token; none for a token of zeros."""
    if compression.mixing is None:
        origin = int(compression.origin[row, token])
        return {origin: 1.0} if origin >= 0 else {}
    weights = compression.mixing[row, token]
    index = weights.nonzero()[:, 0]
    return dict(zip(index.tolist(), weights[index].tolist(), strict=True))
