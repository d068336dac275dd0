"""Texts of the page about answers, as HTML."""

from html import escape

from foveate.explore.drawing import score_range
from foveate.explore.inspection import Inspection
from foveate.explore.session import Seen


def status_of(seen: Seen) -> str:
    """Returns the answer from all patches, with its cost."""
    full, patches = seen.full, f"{seen.prompt.arrangement.patches} patches"
    patches += f" of {len(seen.panes)} frames" if seen.clip else ""
    reference = f"<br>reference answer: {escape(seen.reference)}" if seen.reference else ""
    return (
        f"<div class='answer'>{_text(full.answer)}</div><div class='facts'>with all {patches}{reference}<br>"
        f"{_cost(full)}</div>"
    )


def answer_of(seen: Seen, inspection: Inspection) -> str:
    """Returns a method's answer, whether it changed, and its cost."""
    patches = seen.prompt.arrangement.patches
    same = inspection.words == seen.full.words
    verdict = "<span class='same'>same as with all patches</span>" if same else "<span class='changed'>changed</span>"
    kept = f"{len(inspection.kept)} of {patches}"
    kept += f" kept, {len(inspection.merged)} merged" if inspection.merged else " patches kept"
    scores = f"<br>{score_range(inspection)}" if seen.clip else ""  # the figure of an image has it
    return (
        f"<div class='answer'>{_text(inspection.answer)}</div>{verdict}<div class='facts'>{kept}<br>"
        f"{_cost(inspection)}{scores}</div>"
    )


def _cost(inspection: Inspection) -> str:
    blocks = inspection.per_block
    return (
        f"log-probability {inspection.log_probability:.3f}<br>{sum(blocks) / len(blocks):.1f} equivalent tokens, "
        f"{inspection.milliseconds:.0f} ms"
    )


def _text(answer: str) -> str:
    return escape(answer) if answer.strip() else "(empty answer)"


def error_of(message: str) -> str:
    """Returns an error message."""
    return f"<span class='failed'>{escape(message)}</span>"
