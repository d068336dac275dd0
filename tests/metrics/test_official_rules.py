"""Rules of OCRBench, MMStar, MathVista, MMMU, HallusionBench and CHAIR against outcomes that are derived by hand.

The outcomes follow from the code of each official script, which was read line by line.
"""

import numpy as np
import pytest

from foveate.data.coco import mentioned_objects, singular
from foveate.metrics.answers import SCORINGS, score_of
from foveate.metrics.benchmarks import DISCIPLINES, compute_measure, measures_of
from foveate.metrics.captions import absent_mentions
from foveate.metrics.choices import mathvista_letter, mmstar_match, named_letter, yes_or_no_word
from foveate.metrics.mmmu import mmmu_letter, mmmu_open_match
from foveate.metrics.open_answers import ocr_formula_match, ocr_match
from tests.data.test_detail_benchmarks import samples
from tests.metrics.test_benchmarks import columns

OCR = [
    ("CENTRE", "centre", 1),
    ("The word is Centre.", "CENTRE", 1),
    ("new\nyork", "New York", 1),  # a line break is a blank
    ("new  york", "new york", 0),
    ("cent re", "centre", 0),
    ("12", "2", 1),  # a part of a word counts, too
    ("", "centre", 0),
]


@pytest.mark.parametrize(("found", "true", "score"), OCR)
def test_ocrbench_looks_for_the_reference_in_the_answer(found, true, score):
    assert ocr_match(found, (true,)) == ocr_match(found, ("never", true)) == score


@pytest.mark.parametrize(
    ("found", "score"), [("x^{2}=A", 1), ("$x ^ {2} = A$", 1), ("x^{2}=a", 0), ("x^2=A", 0), ("x^{2}\n=A", 1)]
)
def test_formulas_of_ocrbench_are_compared_without_blanks_and_with_case(found, score):
    assert ocr_formula_match(found, ("x ^ { 2 } = A",)) == score


STAR = [
    ("B", 1),
    ("b. the ring", 1),
    ("(B) ring", 1),
    ("Option B is right", 1),
    ("The answer is B", 1),
    ("Because of it", 1),  # only the first letter is compared
    ("The answer is: B", 0),
    ("The correct answer is B", 0),
    ("**B**", 0),
    ("A", 0),
    ("", 0),
    ("\nB", 1),
]


@pytest.mark.parametrize(("found", "score"), STAR)
def test_mmstar_compares_the_first_letter(found, score):
    assert mmstar_match(found, ("B",)) == score


@pytest.mark.parametrize(
    ("found", "letter"),
    [("B", "B"), ("B.", "B"), ("(B)", "B"), ("It is B, I think", "B"), ("A or B", ""), ("E", ""), ("b", ""), ("", "")],
)
def test_a_named_letter_is_the_only_one_among_the_words(found, letter):
    assert named_letter(found) == letter


MATH = [
    ("13", "B"),  # an option
    ("B", "B"),
    ("(b)", "B"),
    ("(B) 13", "B"),
    ('The answer is "13".', "B"),
    ("The answer is B.", "B"),  # a language model extracts the letter in the official evaluation
    ("The length is 13", "B"),
]


@pytest.mark.parametrize(("found", "letter"), MATH)
def test_mathvista_reads_letters_quotes_and_options(found, letter):
    assert mathvista_letter(found, ("12", "13", "15")) == letter


def test_mathvista_takes_the_option_with_the_smallest_edit_distance():
    assert mathvista_letter("rectangel", ("triangle", "rectangle", "square")) == "B"
    assert mathvista_letter("17", ("12", "13", "15")) == "A"  # of equal ones the first
    assert mathvista_letter("", ("12", "3")) == "B"


MMMU = [
    ("B", "B"),
    ("B.", "B"),
    ("(B)", "B"),
    ("Not (A), but (B)", "B"),  # the last one in brackets
    ("A is wrong (B)", "B"),  # brackets go first
    ("The answer is B", "B"),
    ("A or B", "B"),
    ("B: blue", ""),  # a colon inside the answer stays, and the answer is short
    ("I would say that the colour is blue", "B"),  # more than five words: the text of an option
    ("It is not blue, it is clearly red", "A"),  # the last one
    ("blue", ""),  # the official script draws a letter
    ("", ""),
    ("b", ""),
]


@pytest.mark.parametrize(("found", "letter"), MMMU)
def test_mmmu_reads_the_letter_as_its_script(found, letter):
    assert mmmu_letter(found, ("red", "blue")) == letter


OPEN = [
    ("3.43", ("24/7", "3.429"), 1),  # numbers are equal at two decimals
    ("3.44", ("24/7", "3.429"), 0),
    ("The result is 24/7.", ("24/7", "3.429"), 1),
    ("x = 3.429", ("3.429",), 1),
    ("The length is 3 and the width is 4", ("3",), 0),  # what follows the last "is"
    ("3 and 4", ("3",), 1),  # without a key word all of the answer
    ("1,234", ("1234",), 1),
    ("1.5e3", ("1500",), 1),
    ("It is the mitral valve", ("mitral valve",), 1),
    ("mitral", ("mitral valve",), 0),
    ("It is type A blood", ("A",), 1),  # one character beside a blank
    ("It is alpha", ("A",), 0),
    ("Line one is 5\nso it is 6", ("5",), 1),  # every line has a key part
    ("", ("5",), 0),
]


@pytest.mark.parametrize(("found", "true", "score"), OPEN)
def test_mmmu_scores_open_answers_as_its_script(found, true, score):
    assert mmmu_open_match(found, true) == score


def test_mmmu_has_thirty_subjects_in_six_disciplines():
    subjects = [subject for members in DISCIPLINES.values() for subject in members]
    assert len(DISCIPLINES) == 6 and len(set(subjects)) == len(subjects) == 30
    records = columns([("1", "Art", "", "", 1.0), ("2", "Math", "", "", 0.0), ("3", "Music", "", "", 0.0)])
    found = {measure.name: compute_measure(measure, records) for measure in measures_of("mmmu")}
    assert (found["accuracy"], found["art and design"], found["science"]) == (pytest.approx(1 / 3), 0.5, 0)
    assert np.isnan(found["business"])


@pytest.mark.parametrize(
    ("found", "word"),
    [
        ("Yes", "yes"),
        ("No.", "no"),
        ("Yes, they are.", "yes"),
        ("yes,they are", "yes"),
        ("There is no star", "no"),
        ("Yes and no", "other"),
        ("Not at all", "other"),
        ("**Yes**", "other"),
        ("", "other"),
    ],
)
def test_hallusionbench_looks_for_the_only_word_yes_or_no(found, word):
    assert yes_or_no_word(found) == word


def test_hallusionbench_counts_questions_over_figures_and_figures_over_questions():
    """Two sets; in the first, question 0 is right about both figures, and figure 0 in both questions."""
    right = {"0_0_0": 1, "0_0_1": 1, "0_1_0": 1, "0_1_1": 0, "1_0_0": 1, "1_1_0": 0}
    names = np.array([f"VD_illusion_{name}" for name in right], object)
    order = np.random.default_rng(0).permutation(len(names))
    records = {"sample_id": names[order], "score": np.array(list(right.values()), float)[order]}
    records |= {"image_id": records["sample_id"], "kind": np.full(6, "VD_illusion", object)}
    found = {measure.name: compute_measure(measure, records) for measure in measures_of("hallusionbench")}
    assert found == {"aAcc": pytest.approx(4 / 6), "qAcc": pytest.approx(1 / 3), "fAcc": pytest.approx(2 / 4)}
    clusters = measures_of("hallusionbench")[1].cluster(records)
    assert sorted(clusters) == ["VD_illusion_0"] * 4 + ["VD_illusion_1"] * 2
    twice = records | {"sample_id": np.array([f"{name}#2" for name in records["sample_id"]])}
    assert (measures_of("hallusionbench")[2].parts(twice) == measures_of("hallusionbench")[2].parts(records)).all()


CAPTIONS = {
    "A dog and two cats sit on the benches.": ["dog", "cat", "bench"],
    "A man's dog; the dog barks.": ["person", "dog", "dog"],  # every mention counts
    "A baby elephant and a baby": ["elephant", "person"],  # a qualifier of an animal names no person
    "Passengers leave the passenger train": ["train"],
    "hot dogs, a teddy bear and a bow tie": ["hot dog", "teddy bear", "tie"],  # neither dog nor bear
    "a toilet seat": ["toilet"],
    "the toilet has a white seat": ["toilet"],  # no chair
    "a seat": ["chair"],
    "wine glasses on a dining table": ["wine glass", "dining table"],
    "Skis, scissors, knives, buses, ties": ["skis", "scissors", "knife", "bus", "tie"],
    "The sky is blue.": [],
    "": [],
}


@pytest.mark.parametrize("caption", CAPTIONS)
def test_mentions_of_a_caption_follow_the_rule_of_chair(caption):
    assert mentioned_objects(caption) == CAPTIONS[caption]


@pytest.mark.parametrize(
    ("word", "one"),
    [
        ("benches", "bench"),
        ("glasses", "glass"),
        ("puppies", "puppy"),
        ("men", "man"),
        ("bus", "bus"),
        ("canoes", "canoe"),
    ],
)
def test_singulars_of_words_in_captions(word, one):
    assert singular(word) == singular(one) == one


def test_chair_counts_mentions_and_captions():
    """Three captions: one mention of four is absent in the first, both are in the second, and the third has none."""
    rows = [
        ("1", "", "A man, a dog, a dog and a kite.", "dog | person", 0.0),
        ("2", "", "A cat on a sofa", "no object", 0.0),
        ("3", "", "Nothing here.", "dog", 1.0),
    ]
    assert absent_mentions(rows[0][2], ("dog", "person")) == ["kite"]
    for _, _, caption, reference, score in rows:
        assert SCORINGS["chair"](caption, tuple(reference.split(" | "))) == score
    found = {measure.name: compute_measure(measure, columns(rows)) for measure in measures_of("chair")}
    assert found == {
        "CHAIR_s": pytest.approx(2 / 3),
        "CHAIR_i": pytest.approx(3 / 6),
        "share of the objects named": pytest.approx(2 / 3),
    }
    assert [measure.lower_is_better for measure in measures_of("chair")] == [True, True, False]


def test_numbers_of_kinds_count_their_questions_only():
    rows = [("1", "human", "", "", 1.0), ("2", "human", "", "", 0.0), ("3", "augmented", "", "", 1.0)]
    found = {measure.name: compute_measure(measure, columns(rows)) for measure in measures_of("chartqa")}
    assert found == {"relaxed accuracy": pytest.approx(2 / 3), "human": 0.5, "augmented": 1}
    assert measures_of("chartqa")[1].selected(columns(rows)).tolist() == [True, True, False]


def test_letters_of_options_are_scored_by_the_rule_of_the_benchmark(tmp_path):
    (math,) = samples("mathvista", tmp_path, "testmini")
    first = samples("mmmu", tmp_path, "validation")[0]
    assert (score_of("(B)", math), score_of("It is 13", math), score_of("12", math)) == (1, 1, 0)
    assert (score_of("C", first), score_of("A or C", first), score_of("the king's", first)) == (1, 1, 0)
