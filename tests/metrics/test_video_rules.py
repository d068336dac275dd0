"""Rules of benchmarks about videos against outcomes that are derived by hand from the code of their evaluation."""

import numpy as np
import pandas as pd
import pytest

from foveate.analysis.benchmarks.answers import SUBMISSIONS
from foveate.data.benchmarks.videos import MLVU_TASKS, MVBENCH_TASKS
from foveate.data.prompts import format_prompt
from foveate.data.sample import VQASample
from foveate.metrics.answers import score_of
from foveate.metrics.benchmarks import compute_measure, measures_of
from foveate.metrics.videos import (
    drawn_letter,
    egoschema_letter,
    longvideobench_letter,
    mlvu_letter,
    mvbench_letter,
    options_in,
    videomme_letter,
)

FIRST = [
    ("B", "B"),
    ("(C) Two.", "C"),
    ("The best answer is D", "D"),
    ("Answer: B", "A"),  # the A of "Answer"
    ("Best option: C", "B"),  # the B of "Best"
    ("it is b", ""),
    ("there is nothing in this long answer that would be one of the letters", ""),
    ("there is nothing in this long answer but it ends with a D", "D"),
    ("", ""),
    ("CAB", "C"),
]


@pytest.mark.parametrize(("found", "letter"), [*FIRST, ("E", ""), ("Every B", "B")])
def test_videomme_takes_the_first_character_from_a_to_d(found, letter):
    assert videomme_letter(found, ()) == letter


@pytest.mark.parametrize(("found", "letter"), [*FIRST, ("E", "E"), ("Every B", "E")])
def test_longvideobench_takes_the_first_character_from_a_to_e(found, letter):
    assert longvideobench_letter(found, ()) == letter


MVBENCH = [
    ("A", "A"),
    ("(B)", "B"),
    ("(B) the ring", "B"),
    ("c. the cross", "C"),
    ("D.text", "D"),
    ("It is a cat", "A"),  # the article is a letter by itself
    ("Best option: E", "E"),
    ("the answer is-C", "C"),  # the hyphen becomes a blank
    ("they are -C", "C"),
    ("they are-C - yes", ""),  # a hyphen beside a blank: all are removed, and "areC" is no letter
    ("U.S.B.", ""),  # full stops are removed first
    ("b\nbecause", "B"),
    ("ring", ""),
    ("F", ""),
    ("", ""),
]


@pytest.mark.parametrize(("found", "letter"), MVBENCH)
def test_mvbench_takes_a_letter_before_a_full_stop_or_the_first_that_stands_alone(found, letter):
    assert mvbench_letter(found, ()) == letter


@pytest.mark.parametrize(
    ("found", "letter"),
    [
        ("B) a ring", "B"),
        ("(B) a ring", "B"),
        ("B", "B"),
        (" C\n", "C"),
        ("B.", "B."),  # without a bracket the whole answer is compared
        ("the ring (B)", "B"),
        (") B", ""),
        ("", ""),
    ],
)
def test_mlvu_takes_the_character_before_the_first_closing_bracket(found, letter):
    assert mlvu_letter(found, ()) == letter


OPTIONS = ("C cuts v", "C cuts w", "C cuts x", "C cuts y", "C cuts z")
EGOSCHEMA = [
    ("B", "B"),
    ("(D)", "D"),
    ("E. C cuts z", "E"),  # "E." stands before "C "
    ("The answer is (B), not D", "B"),
    ("either (D) or (B)", "D"),
    ("B or not, it is B", "B"),
    ("D or (B), it is D", "B"),  # the last place of "D " is behind that of "(B)"
    ("D. Because of (B) it is D.", "D"),  # "D." has a place of its own: the last full stop is removed
    ("MEDIA C", "A"),  # the last letter of a word before a blank
    ("person who is here cuts y and z", ""),
    ("in this video c cuts y all day", "D"),
    ("c cuts y", ""),  # at most five words name no option by its text
    ("in this video c cuts y and then c cuts w", "D"),
    ("nothing", ""),
    ("", ""),
]


@pytest.mark.parametrize(("found", "letter"), EGOSCHEMA)
def test_egoschema_takes_the_first_of_the_letters_that_an_answer_names(found, letter):
    assert egoschema_letter(found, OPTIONS) == letter


def question(name, scoring, letter="B"):
    references = (letter, OPTIONS["ABCDE".index(letter)])
    return VQASample(name, "v", (), "", "What?", references, scoring, form="letter_direct", options=OPTIONS)


@pytest.mark.parametrize("scoring", ["longvideobench", "egoschema"])
def test_an_answer_without_a_letter_gets_one_that_is_drawn_by_the_question_alone(scoring):
    letters = [drawn_letter(f"q{number}", 5) for number in range(500)]
    assert all(75 < letters.count(letter) < 125 for letter in "ABCDE")
    scores = [score_of("nothing", question(f"q{number}", scoring)) for number in range(500)]
    assert scores == [float(letter == "B") for letter in letters]
    assert scores == [score_of("...", question(f"q{number}", scoring)) for number in range(500)]


@pytest.mark.parametrize("scoring", ["videomme", "mvbench", "mlvu"])
def test_other_benchmarks_draw_no_letter(scoring):
    assert not any(score_of("nothing", question(f"q{number}", scoring)) for number in range(50))


def records(rows):
    """Columns of records from tuples of kind, answer and score, each about a video of its own."""
    kinds, answers, scores = (np.array(column, object) for column in zip(*rows, strict=True))
    names = np.array([f"q{number}" for number in range(len(rows))], object)
    prompts = np.array([format_prompt(question(name, "egoschema"), "llava") for name in names], object)
    return {
        **{"sample_id": names, "image_id": names, "kind": kinds, "prediction": answers},
        **{"question": prompts, "score": scores.astype(float)},
    }


def numbers(name, rows):
    return {measure.name: compute_measure(measure, records(rows)) for measure in measures_of(name)}


def test_mvbench_is_the_mean_of_its_tasks_without_empty_answers():
    rows = [("action_count", "A", 1), ("action_count", "", 0), ("state_change", "A", 1), ("state_change", "B", 0)]
    found = numbers("mvbench", [*rows, ("state_change", "C", 0)])
    assert found["action_count"] == 1 and found["state_change"] == pytest.approx(1 / 3)
    assert found["mean of the tasks"] == pytest.approx(2 / 3)
    assert len(MVBENCH_TASKS) == 20 and len(found) == 21


def test_mlvu_is_the_mean_of_its_tasks():
    found = numbers("mlvu", [("ego", "A", 1), ("ego", "A", 0), ("ego", "", 0), ("count", "A", 1)])
    assert found["M-Avg"] == pytest.approx((1 / 3 + 1) / 2)
    assert set(MLVU_TASKS) < set(found)


def test_videomme_is_counted_by_length_domain_sub_category_and_task():
    rows = [
        ("short,Knowledge,Law,OCR Problems", "A", 1),
        ("long,Knowledge,Geography,OCR Problems", "A", 0),
        ("long,Multilingual,Multilingual,Counting Problem", "A", 1),
    ]
    found = numbers("videomme", rows)
    shown = ("accuracy", "short", "long", "Knowledge", "Multilingual", "Law", "OCR Problems", "Counting Problem")
    assert [found[name] for name in shown] == pytest.approx([2 / 3, 1, 0.5, 0.5, 1, 1, 0.5, 1])
    assert np.isnan(found["medium"]) and len(found) == 1 + 3 + 6 + 29 + 12


def test_longvideobench_counts_lengths_categories_and_drawn_answers():
    found = numbers("longvideobench", [("15,S2E", "A", 1), ("15,TOS", "nothing", 0), ("3600,TOS", "", 1)])
    shown = ("accuracy", "15 s", "3600 s", "TOS", "answers drawn at random")
    assert [found[name] for name in shown] == pytest.approx([2 / 3, 0.5, 1, 0.5, 2 / 3])


def test_egoschema_counts_drawn_answers_with_the_options_of_the_prompt():
    rows = [("", "in this video c cuts y all day", 1), ("", "nothing", 0), ("", "(A)", 0), ("", "", 1)]
    assert numbers("egoschema", rows) == {"accuracy": 0.5, "answers drawn at random": 0.5}


def test_options_are_read_from_the_end_of_a_prompt():
    assert options_in("Which?\nA. B\nB. is\nno option\nA. red\nB. blue. C. one\nC. grey\nAnswer") == [
        *("red", "blue. C. one", "grey"),
    ]
    assert options_in("(A) red\n(B) blue") == ["red", "blue"] and options_in("Which?") == []


def test_a_submission_of_egoschema_has_the_number_of_an_option_by_video():
    rows = [("", "in this video c cuts y all day", 0), ("", "(B)", 0), ("", "nothing", 0)]
    found = SUBMISSIONS["egoschema"](pd.DataFrame(records(rows)))
    assert found == {"q0": 3, "q1": 1, "q2": "ABCDE".index(drawn_letter("q2", 5))}
