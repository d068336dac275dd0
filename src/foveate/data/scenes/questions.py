"""Questions about a scene, each with its answer and the patches that are needed to answer it."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from numpy.random import Generator

from foveate.data.scenes.bitmaps import KINDS
from foveate.data.scenes.scene import Scene, Text, Thing

About = Literal["things", "details"]
NUMBERS = {1: "one", 2: "two", 3: "three", 4: "four", 5: "five", 6: "six"}


@dataclass(frozen=True)
class Question:
    """A question with its reference answer.

    Attributes:
        kind: Question type, a key of `QUESTION_KINDS`.
        text: The question.
        answer: The reference answer; several items are separated by commas, characters by spaces.
        needed: The patches of each thing, string or digit that shows the answer.
    """

    kind: str
    text: str
    answer: str
    needed: tuple[tuple[int, ...], ...]


Ask = Callable[[Scene, Generator], tuple[str, str, list[Thing | Text]]]


@dataclass(frozen=True)
class QuestionKind:
    """A type of question.

    Attributes:
        about: What it asks for: "things", which captions of the image name, or "details", which they do not.
        ask: Returns text, answer and the needed parts of a scene.
        several: Whether the answer is a comma-separated set.
    """

    about: About
    ask: Ask
    several: bool = False


def make_questions(scene: Scene, rng: Generator) -> tuple[Question, ...]:
    """Returns one question of every kind, in the order of `QUESTION_KINDS`."""
    return tuple(make_question(kind, scene, rng) for kind in QUESTION_KINDS)


def make_question(kind: str, scene: Scene, rng: Generator) -> Question:
    """Returns a question of a kind."""
    text, answer, needed = QUESTION_KINDS[kind].ask(scene, rng)
    return Question(kind, text, answer, tuple(part.patches for part in needed))


def _pick(scene: Scene, rng: Generator, count: int = 1) -> list[Thing]:
    return [scene.things[i] for i in rng.permutation(len(scene.things))[:count]]


def colour_and_kind(scene: Scene, rng: Generator) -> tuple[str, str, bool, Thing]:
    """Draws a colour and a kind.

    In half of the draws a thing of the scene has both. Of the others, half name an absent kind, and half a kind of the
    scene in the colour of another thing.

    Returns:
        Colour, kind, whether a thing has both, and the thing to look at: one of that kind, or, if there is none, of
        that colour.
    """
    thing, other = _pick(scene, rng, 2)
    if rng.random() < 0.5:
        return thing.colour, thing.kind, True, thing
    if rng.random() < 0.5 and other.colour != thing.colour:
        return other.colour, thing.kind, False, thing
    absent = [kind for kind in KINDS if kind not in {each.kind for each in scene.things}]
    return thing.colour, str(rng.choice(absent)), False, thing


def _exist(scene: Scene, rng: Generator) -> tuple[str, str, list[Thing | Text]]:
    colour, kind, true, thing = colour_and_kind(scene, rng)
    return f"is there a {colour} {kind}?", "yes" if true else "no", [thing]


def _colour(scene: Scene, rng: Generator) -> tuple[str, str, list[Thing | Text]]:
    (thing,) = _pick(scene, rng)
    return f"what color is the {thing.kind}?", thing.colour, [thing]


def _kind(scene: Scene, rng: Generator) -> tuple[str, str, list[Thing | Text]]:
    """Asks for the only thing of a colour."""
    colours = [thing.colour for thing in scene.things]
    alone = [thing for thing in scene.things if colours.count(thing.colour) == 1]
    thing = alone[rng.integers(len(alone))]
    return f"which thing is {thing.colour}?", thing.kind, [thing]


def _count(scene: Scene, rng: Generator) -> tuple[str, str, list[Thing | Text]]:
    """Asks how many things have a colour; each number that occurs in the scene is equally likely."""
    by_colour = {thing.colour: [t for t in scene.things if t.colour == thing.colour] for thing in scene.things}
    number = int(rng.choice(sorted({len(things) for things in by_colour.values()})))
    colours = [colour for colour, things in by_colour.items() if len(things) == number]
    colour = colours[rng.integers(len(colours))]
    return f"how many things are {colour}?", NUMBERS[number], list(by_colour[colour])


def _position(scene: Scene, rng: Generator) -> tuple[str, str, list[Thing | Text]]:
    (thing,) = _pick(scene, rng)
    return f"where is the {thing.kind}?", " ".join(scene.quadrant(thing.patches)), [thing]


def _relation(scene: Scene, rng: Generator) -> tuple[str, str, list[Thing | Text]]:
    one, other = _pick(scene, rng, 2)
    return f"where is the {one.kind} from the {other.kind}?", scene.direction(one, other), [one, other]


def _read(scene: Scene, rng: Generator) -> tuple[str, str, list[Thing | Text]]:
    text = scene.strings[rng.integers(2)]
    return f"what does the {text.colour} text say?", text.spelled, [text]


def _digit(scene: Scene, rng: Generator) -> tuple[str, str, list[Thing | Text]]:
    numbered = [(thing, thing.beside) for thing in scene.things if thing.beside and len(thing.beside.characters) == 1]
    thing, digit = numbered[rng.integers(len(numbered))]
    return f"which number is right of the {thing.kind}?", digit.characters, [thing, digit]


def _two_hop(scene: Scene, rng: Generator) -> tuple[str, str, list[Thing | Text]]:
    """Asks for the string right of a thing."""
    string = scene.strings[1]
    (thing,) = [thing for thing in scene.things if thing.beside is string]
    return f"what does the text right of the {thing.kind} say?", string.spelled, [thing, string]


def _describe(scene: Scene, rng: Generator) -> tuple[str, str, list[Thing | Text]]:
    (thing,) = _pick(scene, rng)
    answer = f"{thing.size}, {thing.colour}, {' '.join(scene.quadrant(thing.patches))}"
    return f"describe the {thing.kind}.", answer, [thing]


def _describe_text(scene: Scene, rng: Generator) -> tuple[str, str, list[Thing | Text]]:
    text = scene.strings[rng.integers(2)]
    answer = f"{text.weight}, {text.spelled}, {' '.join(scene.quadrant(text.patches))}"
    return f"describe the {text.colour} text.", answer, [text]


def _compare(scene: Scene, rng: Generator) -> tuple[str, str, list[Thing | Text]]:
    """Asks for size and colour of two things, in the order of the question."""
    one, other = _pick(scene, rng, 2)
    answer = f"{one.size} {one.colour}, {other.size} {other.colour}"
    return f"compare the {one.kind} and the {other.kind}.", answer, [one, other]


def _list(scene: Scene, rng: Generator) -> tuple[str, str, list[Thing | Text]]:
    """Asks for all things; the reference is in reading order, and scoring ignores the order."""
    things = sorted(scene.things, key=lambda thing: thing.patches)
    return "list the things.", ", ".join(f"{thing.colour} {thing.kind}" for thing in things), list(things)


def _list_texts(scene: Scene, rng: Generator) -> tuple[str, str, list[Thing | Text]]:
    """Asks for both strings; the reference is in reading order, and scoring ignores the order."""
    texts = sorted(scene.strings, key=lambda text: text.patches)
    return "list the texts.", ", ".join(f"{t.colour} {t.spelled}" for t in texts), list(texts)


QUESTION_KINDS: dict[str, QuestionKind] = {
    "exist": QuestionKind("things", _exist),
    "color": QuestionKind("things", _colour),
    "kind": QuestionKind("things", _kind),
    "count": QuestionKind("things", _count),
    "position": QuestionKind("things", _position),
    "relation": QuestionKind("things", _relation),
    "describe": QuestionKind("things", _describe, several=True),
    "compare": QuestionKind("things", _compare),
    "list": QuestionKind("things", _list, several=True),
    "digit": QuestionKind("details", _digit),
    "read": QuestionKind("details", _read),
    "two_hop": QuestionKind("details", _two_hop),
    "describe_text": QuestionKind("details", _describe_text, several=True),
    "list_texts": QuestionKind("details", _list_texts, several=True),
}
