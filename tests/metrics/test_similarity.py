"""Token F1, ANLS and relaxed accuracy against other ways to compute them."""

from fractions import Fraction
from functools import cache
from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from foveate.metrics.similarity import anls, relaxed_accuracy, token_f1

WORDS = ["the", "a", "red", "Red.", "cup", "an", "c-u-p", "?"]
TEXTS = st.lists(st.sampled_from(WORDS), max_size=6).map(" ".join)


def words_by_hand(text):
    kept = [letter for letter in text.lower() if letter not in ".?-"]
    return [word for word in "".join(kept).split() if word not in ("the", "a", "an")]


@given(TEXTS, TEXTS)
def test_token_f1_is_the_harmonic_mean_of_precision_and_recall_of_words(found, true):
    one, other = words_by_hand(found), words_by_hand(true)
    left, shared = list(other), 0
    for word in one:
        if word in left:
            left.remove(word)
            shared += 1
    if not one or not other:
        expected = float(one == other)
    elif not shared:
        expected = 0.0
    else:
        precision, recall = Fraction(shared, len(one)), Fraction(shared, len(other))
        expected = float(2 / (1 / precision + 1 / recall))
    assert token_f1(found, (true,)) == pytest.approx(expected)
    assert token_f1(found, ("blue", true, "x y z")) >= expected


def test_token_f1_of_published_examples():
    assert token_f1("The Amazon rainforest!", ("amazon rainforest", "rainforest")) == 1
    assert token_f1("santa clara, california", ("Santa Clara",)) == pytest.approx(0.8)
    assert token_f1("", ("red",)) == token_f1("the", ("red",)) == 0


def distance_by_definition(one, other):
    @cache
    def distance(i, j):
        if not i or not j:
            return i + j
        changed = distance(i - 1, j - 1) + (one[i - 1] != other[j - 1])
        return min(distance(i - 1, j) + 1, distance(i, j - 1) + 1, changed)

    return distance(len(one), len(other))


@given(st.text("abc ", max_size=7), st.text("abC ", max_size=7))
def test_anls_is_one_minus_the_share_of_edits_unless_that_is_above_one_half(found, true):
    one, other = " ".join(found.split()), " ".join(true.lower().split())
    longest = max(len(found), len(true))  # with all blanks, as in the script of the DocVQA challenge
    share = Fraction(distance_by_definition(one, other), longest) if longest else Fraction(0)
    assert anls(found, (true,)) == pytest.approx(float(1 - share) if share <= Fraction(1, 2) else 0.0)


def test_anls_takes_the_best_reference_and_counts_one_half():
    assert anls("ab", ("xy", "ax", "xyz")) == 0.5
    assert anls("abc", ("axy",)) == 0
    assert anls(" New  York ", ("boston", "new york")) == 1


# outcomes of the script of the DocVQA challenge, derived manually from it
ANLS = [
    ("1/8/93", ("1/8/93",), 1),
    ("1/8/92", ("1/8/93", "Jan 8"), 1 - 1 / 6),
    ("The letter is of 1/8/93", ("1/8/93",), 0),
    ("itc  limited", ("ITC Limited",), 1),  # repeated blanks
    ("itc  limite", ("itc limited",), 1 - 1 / 11),  # both texts have 11 characters, of which one is a blank too many
    ("ab   ", ("ac",), 1 - 1 / 5),  # the length counts blanks at the end
    ("", ("",), 1),
    ("", ("a",), 0),
]


@pytest.mark.parametrize(("found", "true", "expected"), ANLS)
def test_anls_equals_the_script_of_the_docvqa_challenge(found, true, expected):
    assert anls(found, true) == pytest.approx(expected)


# outcomes of the function that Pix2Struct, Qwen-VL and lmms-eval share, derived manually from it
RELAXED = [
    ("10.5", "10", 1),  # exactly 5 per cent
    ("10.6", "10", 0),
    ("12", "12%", 0),  # 0.12
    ("0.12", "12%", 1),
    ("12.5%", "12%", 1),
    ("$12", "12", 0),  # no number, and not the same text
    ("1,000", "1000", 0),
    ("2,015", "2,015", 1),
    ("2014", "2015", 1),  # years are numbers, too
    ("yes", "Yes", 1),
    ("Yes.", "Yes", 0),
    ("0", "0", 1),
    ("0.0", "0", 0),  # against 0 the texts are compared
]


@pytest.mark.parametrize(("found", "true", "expected"), RELAXED)
def test_relaxed_accuracy_equals_the_function_of_chartqa(found, true, expected):
    assert relaxed_accuracy(found, (true,)) == expected


@pytest.mark.parametrize(("true", "sign"), list(product(["100", "-3.5", "0.02", "40%"], ["", "%"])))
def test_relaxed_accuracy_allows_exactly_5_per_cent(true, sign):
    value = Fraction(true.rstrip("%")) / (100 if "%" in true else 1)
    for share in ("0.949", "0.951", "1", "1.049", "1.051", "-1"):
        found = value * Fraction(share) * (100 if sign else 1)
        expected = abs(Fraction(share) - 1) <= Fraction(5, 100)
        assert relaxed_accuracy(f"{float(found):.9f}{sign}", (true,)) == expected, share


def test_relaxed_accuracy_of_texts_and_of_zero_is_equality_without_case():
    assert relaxed_accuracy(" Red ", ("blue", "red")) == 1
    assert relaxed_accuracy("reds", ("red",)) == relaxed_accuracy("12 cups", ("12",)) == 0
    assert (relaxed_accuracy("0", ("0",)), relaxed_accuracy("0.01", ("0",))) == (1, 0)
    assert relaxed_accuracy("nan", ("nan",)) == relaxed_accuracy("inf", ("INF",)) == 1
    assert relaxed_accuracy("inf", ("3",)) == relaxed_accuracy("nan", ("3",)) == 0
