import numpy as np
import pandas as pd
import pytest

from foveate.data.scenes.questions import QUESTION_KINDS
from reference_model.acceptance import EVIDENCE, ONE_PATCH, RANDOM, Measured, acceptance_rows, cls_name
from reference_model.attention import CONTRASTS, FILTERS

IMAGES = 100
THINGS = [kind for kind, question in QUESTION_KINDS.items() if question.about == "things"]


def records(right, about_details=None):
    """Returns the records of questions of every kind, of which given shares are right."""
    rows = [
        {"kind": kind, "image_id": f"image-{image}", "score": float(image < share * IMAGES)}
        for kind in QUESTION_KINDS
        for share in [right if kind in THINGS or about_details is None else about_details]
        for image in range(IMAGES)
    ]
    return pd.DataFrame(rows)


def aucs(things, details=0.5, asked=0.5):
    values = {contrast: 0.5 for contrast in CONTRASTS} | {"things": things, "details": details, "asked": asked}
    spread = np.linspace(-0.02, 0.02, IMAGES)
    return pd.DataFrame({contrast: value + spread for contrast, value in values.items()})


def measured(**change):
    values = {
        "full": records(0.87),
        "blind": records(0.2),
        "attention": dict.fromkeys((*FILTERS, ONE_PATCH), aucs(0.55)) | {"layer 6": aucs(0.88, 0.4)},
        "best": 6,
        "choices": {
            36: {EVIDENCE: records(0.8), RANDOM: records(0.3), cls_name(6): records(0.6, 0.2)},
            16: {EVIDENCE: records(0.8), RANDOM: records(0.2), cls_name(6): records(0.5, 0.2)},
        },
        "places": {2: (records(0.5), records(0.5)), 4: (records(0.5), records(0.6))},
    }
    return Measured(**(values | change))


def unmet(**change):
    return [row["figure"] for row in acceptance_rows(measured(**change)) if row["met"] == "**no**"]


def test_every_condition_is_reported_and_can_be_met():
    rows = list(acceptance_rows(measured()))
    assert len(rows) == 15 and not unmet()
    assert [row["met"] for row in rows].count("") == 2  # details, and the block that the image was hidden from
    by_figure = {row["figure"]: row["measured"] for row in rows}
    assert by_figure["accuracy with all tokens"].startswith("87.0 [")
    assert by_figure["evidence minus random, 16 tokens"].startswith("+60.0 [")
    assert by_figure["[CLS], layer 6 minus random, 36 tokens, questions about details"].startswith("-10.0 [")


@pytest.mark.parametrize(
    ("change", "figures"),
    [
        ({"full": records(0.95)}, ["accuracy with all tokens"]),
        ({"blind": records(0.4)}, ["accuracy without the image"]),
        (
            {"attention": dict.fromkeys((*FILTERS, ONE_PATCH), aucs(0.67, asked=0.61)) | {"layer 6": aucs(0.8, 0.6)}},
            [
                "AUC of the best pixel filter (saturation) for asked",
                "AUC of the best pixel filter (saturation) for things",
                "AUC of a network that sees one patch for asked",
                "AUC of [CLS] in layer 6 for things",
                "minus saturation",
                "minus its AUC for details",
            ],
        ),
        (
            {"places": {4: (records(0.5), records(0.53))}},
            ["dropping before block 4 minus the same patches at the input, chosen by prompt attention"],
        ),
        (
            {"choices": {keep: dict.fromkeys((EVIDENCE, RANDOM, cls_name(6)), records(0.3)) for keep in (36, 16)}},
            [
                "evidence minus random, 36 tokens",
                "evidence minus random, 16 tokens",
                "[CLS], layer 6 minus random, 36 tokens, questions about things",
            ],
        ),
    ],
)
def test_a_condition_that_is_missed_is_named(change, figures):
    assert unmet(**change) == figures
