"""Reasons why a compressor cannot become a program of other engines."""

from foveate.compressors import Compressor
from foveate.core.arrangement import Arrangement
from foveate.core.errors import ExportError
from foveate.core.needs import Fingerprint
from foveate.models.backbone.adapter import Adapter


def check_compressor(name: str, compressor: Compressor) -> None:
    """Checks what is known about a compressor without images.

    Args:
        name: Name of the method, for the error.
        compressor: The compressor.

    Raises:
        ExportError: It cannot become a program; the message gives the reason.
    """
    if reason := _reason(compressor):
        raise ExportError(f"{name} cannot be exported: {reason}")


def _reason(compressor: Compressor) -> str:
    if compressor.cuts:
        return "it removes tokens inside the language model, and a program ends before it"
    if read := [need for need in compressor.needs if need.per_question]:
        return f"it reads {read[0]}, which depends on the question; a program knows the image only"
    if Fingerprint() in compressor.needs:
        return "its random numbers are those of NumPy, seeded by the pixels, which no program can draw"
    if not compressor.static_count:
        return (
            "how many tokens an image has is not known before its scores are, and engines count first; with a fixed "
            "budget (prumerge, trim) or another selector it is"
        )
    return ""


def check_model(name: str, adapter: Adapter, arrangement: Arrangement) -> None:
    """Checks that an image of a model is one grid of tokens and nothing else.

    Args:
        name: Name of the model, for the error.
        adapter: Its adapter.
        arrangement: The arrangement of an image.

    Raises:
        ExportError: The model adds features after blocks of its language model, or cuts images into tiles.
    """
    if adapter.deepstack_levels:
        raise ExportError(
            f"model {name!r} cannot be exported for: it adds DeepStack features to visual tokens inside the language "
            "model, which a program does not see"
        )
    if len(arrangement.views) > 1 or arrangement.separators or arrangement.tiles:
        raise ExportError(
            f"model {name!r} cannot be exported for: it cuts this image into tiles or puts separators between patches, "
            "so positions among patches are not positions among embeddings; give images of one tile"
        )
