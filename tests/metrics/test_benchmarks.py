"""Metrics of benchmarks against manually computed cases and torchmetrics."""

import itertools
from dataclasses import replace

import numpy as np
import pytest
import torch
from torchmetrics.functional.classification import (
    binary_accuracy,
    binary_f1_score,
    binary_precision,
    binary_recall,
)

from foveate.data.sample import VQASample
from foveate.metrics.answers import SCORINGS, exact_match, score_of
from foveate.metrics.benchmarks import MEASURES, POPE_SETS, compute_measure, measures_of
from foveate.metrics.boxes import box_hit, box_overlap, named_box, overlap
from foveate.metrics.choices import (
    mmbench_letter,
    pope_answer,
    scienceqa_letter,
    scienceqa_match,
    seed_match,
    yes_or_no,
)
from foveate.metrics.open_answers import (
    gqa_match,
    mentions,
    textvqa_accuracy,
    textvqa_normalised,
    vqa_accuracy,
    vqa_normalised,
)


@pytest.mark.parametrize(
    ("text", "normalised"),
    [
        ("The cat", "cat"),
        ("an  apple a day", "apple day"),
        ("Two dogs", "2 dogs"),
        ("none", "0"),
        ("ten.", "10"),
        ("3.5", "3.5"),
        ("1,000", "1000"),
        ("dont", "don't"),
        ("couldnt've", "couldn't've"),
        ("couldn'tve", "couldn't've"),
        ("couldntve", "couldntve"),
        ("somebody'd", "somebodyd"),
        ("hi! there", "hi there"),
        ("black-white", "black white"),
        ("black - white", "black white"),
        ("a/b", "b"),
        ("yes\n", "yes"),
        ("$5", "$5"),
        ("what?", "what"),
        ("U.S.A.", "usa"),
    ],
)
def test_vqa_normalises_as_its_evaluation_page_prescribes(text, normalised):
    assert vqa_normalised(text) == normalised


@pytest.mark.parametrize(("text", "normalised"), [("Tom's", "tom 's"), ("a, b", "b"), ("who?me", "whome")])
def test_textvqa_also_separates_the_possessive(text, normalised):
    assert textvqa_normalised(text) == normalised


def test_vqa_accuracy_is_the_mean_over_subsets_of_nine_annotators():
    """Compares with the definition: the mean of min(1, agreeing / 3) over all subsets of nine annotators."""
    for agreeing in range(11):
        references = ["red"] * agreeing + [f"other {n}" for n in range(10 - agreeing)]
        subsets = [min(1, sum(r == "red" for r in nine) / 3) for nine in itertools.combinations(references, 9)]
        assert vqa_accuracy("The red.", references) == pytest.approx(np.mean(subsets))
        assert textvqa_accuracy("Red", references) == pytest.approx(np.mean(subsets))
    assert vqa_accuracy("red", ["red"] * 3 + ["blue"] * 7) == pytest.approx(0.9)


def test_answers_of_annotators_are_normalised():
    assert textvqa_accuracy("two", ["2", "Two.", "two!", "the two"] + ["x"] * 6) == 1.0


@pytest.mark.parametrize(
    ("answer", "true", "score"),
    [("Red.", "red", 1), ("to the left", "left", 0), ("T-shirt", "tshirt", 1), ("", "red", 0)],
)
def test_gqa_compares_bare_words(answer, true, score):
    assert gqa_match(answer, (true,)) == score


@pytest.mark.parametrize(
    ("answer", "share"),
    [("x = -1 or x = -5", 1), ("x is -5.", 0.5), ("I do not know", 0), ("15 and 51", 0)],
)
def test_mentions_counts_the_parts_of_a_reference(answer, share):
    assert mentions(answer, ("-1<AND>-5",)) == share
    assert mentions(answer, ("-1<AND>-5<OR>never",)) == share
    assert mentions("never", ("-1<AND>-5<OR>never",)) == 1


# results of the official scripts, derived manually from their code
POPE = {
    "Yes, there is a star.": "yes",
    "No, there is no star.": "no",
    "No": "no",
    "no": "no",
    "NO": "yes",  # neither No nor no
    "Not really": "yes",
    "not really": "no",
    "No\nThere is none": "yes",  # words are split at spaces only: the first is "No\nThere"
    "No,there": "yes",  # the comma goes, and the word is "Nothere"
    "There is not. Yes.": "no",
    "I see a star. There is no ring.": "yes",  # only the first sentence counts
    ". no": "yes",
    "No.": "no",
    "nothing": "yes",
    "": "yes",
}


@pytest.mark.parametrize("text", POPE)
def test_pope_answer_equals_its_script(text):
    assert pope_answer(text) == POPE[text]


@pytest.mark.parametrize(
    ("text", "answer"),
    [("Yes", "yes"), ("no.", "no"), ("Y", "yes"), ("Not at all", "no"), ("The answer is yes", "other"), ("", "other")],
)
def test_mme_uses_the_first_letters(text, answer):
    assert yes_or_no(text) == answer


SCIENCEQA = {
    "B": "B",
    "E": "E",
    "F": "",  # only A to E
    "b": "",
    "B.": "",  # a full stop without a space
    "B. ": "B",
    "B. the ring": "B",
    "B) the ring": "",
    "(B)": "",
    "AB": "",
    "The answer is B.": "B",
    "The answer is B": "",  # one more character is required
    "The answer is B, because": "B",
    "So. The answer is F.": "F",
    "The answer is A. The answer is A.": "",  # twice
    "the answer is B.": "",
    "the ring": "",
    "": "",
}


@pytest.mark.parametrize("text", SCIENCEQA)
def test_scienceqa_letter_equals_llavas_script(text):
    assert scienceqa_letter(text) == SCIENCEQA[text]
    for letter in "ABCDEF":
        assert scienceqa_match(text, (letter, "the ring")) == (SCIENCEQA[text] == letter)


@pytest.mark.parametrize(("text", "score"), [("B", 1), ("b", 0), ("B.", 0), ("B. two", 0), ("two", 0), ("", 0)])
def test_seed_accepts_the_exact_letter_only(text, score):
    assert seed_match(text, ("B", "two")) == score


OPTIONS = ("a red star", "the ring", "blue", "ring")
MMBENCH = {
    "B": "B",
    "(C)": "C",
    "D: ring": "D",
    "B.": "B",
    "The answer is C.": "C",
    "A star is what I see here": "A",  # an article counts, unless VERBOSE is set
    "B or C": "",
    "B or C, it is blue": "C",  # two letters, one option's text
    "E": "",  # no option has this letter
    "b": "",
    "It is Blue!": "C",
    "the ring": "",  # the text of two options
    "a RED star": "A",
    "Z": "",
    "Z, it is blue": "",
    "B or C or Z": "",
    "I'm sorry, but without the image provided I say B": "",
    "Cannot determine the answer": "",
    "*B*": "B",
    "{B}#": "B",
    "B/C": "",
    "": "",
}


@pytest.mark.parametrize("text", MMBENCH)
def test_mmbench_letter_equals_its_script(text):
    assert mmbench_letter(text, OPTIONS) == MMBENCH[text]


def test_a_score_of_mmbench_uses_all_options():
    sample = VQASample("1", "1", (), "", "Which?", ("D", "ring"), "mmbench", options=("star", "cross", "blue", "ring"))
    assert [score_of(answer, sample) for answer in ("D", "a ring", "a blue ring", "B")] == [1, 1, 0, 0]
    assert score_of("a blue ring", replace(sample, options=("star", "cross", "red", "ring"))) == 1


def test_unicode_is_not_normalised():
    composed, apart = "caf\u00e9", "cafe\u0301"
    assert exact_match(composed, (apart,)) == vqa_accuracy(composed, [apart] * 10) == 0
    assert scienceqa_letter("\uff22") == mmbench_letter("\uff22", OPTIONS) == ""  # a full-width B


def test_overlap_equals_counting_pixels():
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:20, :20]
    for _ in range(200):
        boxes = [np.sort(rng.integers(0, 21, (2, 2)), 1).ravel().astype(float).tolist() for _ in "ab"]
        boxes = [(left, top, right, bottom) for left, right, top, bottom in boxes]
        one, other = [(x >= b[0]) & (x < b[2]) & (y >= b[1]) & (y < b[3]) for b in boxes]
        expected = (one & other).sum() / (one | other).sum() if one.any() and other.any() else 0
        assert overlap(*boxes) == pytest.approx(expected)


def test_boxes_are_read_from_shares_and_thousandths():
    truth = ("[0.10, 0.20, 0.50, 0.60]", "[0.100000, 0.200000, 0.500000, 0.600000]")
    for answer in ("[0.1, 0.2, 0.5, 0.6]", "It is at (100,200),(500,600).", "<box>[[100, 200, 500, 600]]</box>"):
        assert box_overlap(answer, truth) == pytest.approx(1)
    assert named_box("in the middle") is None
    assert box_hit("in the middle", truth) == 0
    assert box_hit("[0.1, 0.2, 0.5, 0.41]", truth) == 1  # 21 / 40 of the box
    assert box_hit("[0.1, 0.2, 0.5, 0.39]", truth) == 0


def columns(rows):
    names = ("image_id", "kind", "prediction", "reference", "score")
    return {name: np.array([row[i] for row in rows], object) for i, name in enumerate(names)}


def test_pope_equals_torchmetrics():
    rng = np.random.default_rng(3)
    rows = [
        (f"i{n // 6}", "random", ("Yes.", "No, there is none.")[rng.integers(2)], ("yes", "no")[rng.integers(2)], 0)
        for n in range(600)
    ]
    answer = torch.tensor([row[2] == "Yes." for row in rows]).int()
    true = torch.tensor([row[3] == "yes" for row in rows]).int()
    expected = {
        "mean F1 of the sets": binary_f1_score(answer, true),  # all questions are of one set
        "pooled F1": binary_f1_score(answer, true),
        "accuracy": binary_accuracy(answer, true),
        "precision": binary_precision(answer, true),
        "recall": binary_recall(answer, true),
        "yes ratio": answer.float().mean(),
    }
    found = {measure.name: compute_measure(measure, columns(rows)) for measure in MEASURES["pope"]}
    assert found == pytest.approx({name: value.item() for name, value in expected.items()})


def test_pope_without_positives_has_no_f1():
    rows = [("i", "random", "no", "no", 1.0)] * 3
    found = {measure.name: compute_measure(measure, columns(rows)) for measure in MEASURES["pope"]}
    names = ("mean F1 of the sets", "pooled F1", "precision", "recall")
    assert np.isnan([found[name] for name in names]).all()
    assert (found["accuracy"], found["yes ratio"]) == (1, 0)


def test_the_published_metric_of_pope_is_the_mean_f1_of_its_sets():
    rng = np.random.default_rng(5)
    rows = [
        (
            f"i{n // 3}",
            POPE_SETS[n % 3],
            ("Yes.", "No")[int(rng.random() < 0.2 + 0.3 * (n % 3))],
            ("yes", "no")[n % 2],
            0,
        )
        for n in range(300)
    ]

    def f1(some):
        answer, true = (torch.tensor([row[i].lower().startswith("yes") for row in some]).int() for i in (2, 3))
        return binary_f1_score(answer, true).item()

    each = [f1([row for row in rows if row[1] == name]) for name in POPE_SETS]
    mean, pooled = (compute_measure(measure, columns(rows)) for measure in measures_of("pope")[:2])
    assert (mean, pooled) == (pytest.approx(np.mean(each)), pytest.approx(f1(rows)))
    assert abs(mean - pooled) > 0.005
    two = [row for row in rows if row[1] != "popular"]
    assert compute_measure(measures_of("pope")[0], columns(two)) == pytest.approx((each[0] + each[2]) / 2)


def test_scienceqa_has_the_accuracy_of_all_questions_and_of_those_with_an_image():
    records = {"score": np.array([1.0, 0.0, 1.0, 1.0]), "has_image": np.array([True, True, False, False])}
    found = {measure.name: compute_measure(measure, records) for measure in measures_of("scienceqa")}
    assert found == {"accuracy": 0.75, "accuracy with an image": 0.5}


def test_mme_adds_accuracy_and_pairs_per_subtask():
    rows = [
        *[("e/1", "existence", "yes", "yes", 1.0), ("e/1", "existence", "no", "no", 1.0)],
        *[("e/2", "existence", "yes", "yes", 1.0), ("e/2", "existence", "yes", "no", 0.0)],
        *[("c/1", "count", "no", "yes", 0.0), ("c/1", "count", "no", "no", 1.0)],
        *[("k/1", "code_reasoning", "yes", "yes", 1.0), ("k/1", "code_reasoning", "no", "no", 1.0)],
    ]
    order = np.random.default_rng(0).permutation(len(rows))  # images need not stay together
    found = {m.name: compute_measure(m, columns([rows[i] for i in order])) for m in MEASURES["mme"]}
    assert found["existence"] == 100 * 3 / 4 + 100 * 1 / 2
    assert found["count"] == 50 + 0
    assert found["perception"] == found["existence"] + found["count"]
    assert found["cognition"] == found["code_reasoning"] == 200


def test_a_circular_question_is_correct_if_all_its_rotations_are():
    rows = [
        *[("1", "", "A", "A", 1.0), ("1", "", "B", "B", 1.0)],
        *[("2", "", "A", "A", 1.0), ("2", "", "A", "B", 0.0)],
    ]
    circular, each = (compute_measure(measure, columns(rows)) for measure in measures_of("mmbench"))
    assert (circular, each) == (0.5, 0.75)


def test_grounding_reports_hits_and_overlap():
    truth = "[0.00, 0.00, 1.00, 1.00] | [0.000000, 0.000000, 1.000000, 1.000000]"
    rows = [("1", "", "[0, 0, 1, 1]", truth, 1.0), ("2", "", "[0, 0, 0.4, 1]", truth, 0.0)]
    hits, mean = (compute_measure(measure, columns(rows)) for measure in measures_of("refcoco"))
    assert (hits, mean) == (0.5, pytest.approx(0.7))


def test_every_score_lies_between_0_and_1():
    references = ("[0.1, 0.1, 0.2, 0.2]", "B", "yes")
    for name, scoring in SCORINGS.items():
        if name != "none":
            for answer in ("", "yes", "B", "[0.1, 0.1, 0.2, 0.2]", "red, blue", "0 0 0 0"):
                assert 0 <= scoring(answer, references[::-1]) <= 1
