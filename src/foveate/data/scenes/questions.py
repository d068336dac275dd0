"""Templated questions about a scene, each with its answer and the things that are needed to answer it."""

from collections.abc import Callable
from dataclasses import dataclass

from numpy.random import Generator

from foveate.data.scenes.scene import COLOURS, KINDS, Scene, Thing

_NUMBERS = {2: "two", 3: "three", 4: "four"}
_LETTERS = ("a", "b", "c", "d")


@dataclass(frozen=True)
class Question:
    """A question with its reference answer.

    Attributes:
        kind: Question type, a key of `QUESTION_KINDS`.
        text: The question.
        answer: The reference answer; several items are separated by commas.
        needed: Indices into `Scene.things` of the evidence.
    """

    kind: str
    text: str
    answer: str
    needed: tuple[int, ...]


def make_questions(scene: Scene, rng: Generator) -> tuple[Question, ...]:
    """Returns one question of every kind, in the order of `QUESTION_KINDS`."""
    return tuple(ask(scene, rng) for ask in QUESTION_KINDS.values())


def _pick(scene: Scene, rng: Generator, count: int = 1) -> list[int]:
    """Draws the indices of `count` different shapes."""
    return [int(i) for i in rng.permutation(len(scene.shapes))[:count]]


def _absent(present: set[str], names: tuple[str, ...], rng: Generator) -> str:
    """Draws a name that is not present."""
    return str(rng.choice([name for name in names if name not in present]))


def _yes_no(truth: bool) -> str:
    return "yes" if truth else "no"


def _exist(scene: Scene, rng: Generator) -> Question:
    """Asks about a shape of the scene in half of the questions, else about an absent colour or an absent kind."""
    (index,) = _pick(scene, rng)
    colour, kind = scene.things[index].colour, scene.things[index].kind
    truth = bool(rng.random() < 0.5)
    if not truth and rng.random() < 0.5:
        colour = _absent({thing.colour for thing in scene.things}, tuple(COLOURS), rng)
    elif not truth:
        kind = _absent({thing.kind for thing in scene.things}, KINDS, rng)
    return Question("exist", f"is there any {colour} {kind}?", _yes_no(truth), (index,))


def _exist_adversarial(scene: Scene, rng: Generator) -> Question:
    """Asks about a colour and a kind of the scene, in half of the questions those of two different things."""
    first, second = _pick(scene, rng, 2)
    truth = bool(rng.random() < 0.5)
    kind = scene.things[first if truth else second].kind
    needed = (first,) if truth else (first, second)
    return Question("exist_adversarial", f"is there any {scene.things[first].colour} {kind}?", _yes_no(truth), needed)


def _colour(scene: Scene, rng: Generator) -> Question:
    (index,) = _pick(scene, rng)
    thing = scene.things[index]
    return Question("color", f"what color is the {thing.kind}?", thing.colour, (index,))


def _shape(scene: Scene, rng: Generator) -> Question:
    (index,) = _pick(scene, rng)
    thing = scene.things[index]
    return Question("shape", f"what shape is the {thing.colour} thing?", thing.kind, (index,))


def _count(scene: Scene, rng: Generator) -> Question:
    shapes = len(scene.shapes)
    return Question("count", "how many shapes are there?", _NUMBERS[shapes], tuple(range(shapes)))


def _reading(scene: Scene, rng: Generator) -> Question:
    index = len(scene.shapes) + int(rng.integers(len(scene.signs)))
    sign = scene.things[index]
    return Question("reading", f"what character is on the {sign.colour} sign?", sign.glyph, (index,))


def _relation(scene: Scene, rng: Generator) -> Question:
    """Asks about the axis on which the two shapes are farther apart."""
    first, second = _pick(scene, rng, 2)
    one, other = scene.things[first], scene.things[second]
    dx, dy = one.x - other.x, one.y - other.y
    sideways = abs(dx) > abs(dy)
    sides = ("left of", "right of") if sideways else ("above", "below")
    side = int((dx if sideways else dy) > 0)
    truth = bool(rng.random() < 0.5)
    text = f"is the {one.kind} {sides[side if truth else 1 - side]} the {other.kind}?"
    return Question("relation", text, _yes_no(truth), (first, second))


def _clearly_placed(scene: Scene, rng: Generator, pixels: int = 5) -> int:
    """Returns a random shape at least `pixels` from both midlines, or else the one that is farthest from them."""
    order = _pick(scene, rng, len(scene.shapes))
    clear = [i for i in order if scene.things[i].margin >= pixels]
    return clear[0] if clear else max(order, key=lambda i: scene.things[i].margin)


def _position(scene: Scene, rng: Generator) -> Question:
    index = _clearly_placed(scene, rng)
    thing = scene.things[index]
    return Question("position", f"where is the {thing.kind}?", " ".join(thing.quadrant), (index,))


def _multiple_choice(scene: Scene, rng: Generator) -> Question:
    """Asks with two to four colours as options; colours of other things of the scene are the first distractors."""
    (index,) = _pick(scene, rng)
    thing = scene.things[index]
    present = {other.colour for other in scene.things} - {thing.colour}
    distractors = sorted(COLOURS, key=lambda name: (name not in present, rng.random()))
    distractors.remove(thing.colour)
    options = [thing.colour, *distractors[: int(rng.integers(1, 4))]]
    options = [str(name) for name in rng.permutation(options)]
    listed = " ".join(f"{letter} {name}" for letter, name in zip(_LETTERS, options, strict=False))
    answer = _LETTERS[options.index(thing.colour)]
    return Question("multiple_choice", f"which color is the {thing.kind}: {listed}?", answer, (index,))


def _list(scene: Scene, rng: Generator) -> Question:
    """Asks for all shapes; the reference is sorted by colour, and scoring ignores the order."""
    named = sorted(f"{thing.colour} {thing.kind}" for thing in scene.shapes)
    return Question("list", "list the shapes.", ", ".join(named), tuple(range(len(named))))


def _list_colours(scene: Scene, rng: Generator) -> Question:
    """Asks for the colour of each shape; the reference is sorted by kind, and scoring ignores the order."""
    named = sorted(f"{thing.kind} {thing.colour}" for thing in scene.shapes)
    return Question("list_colors", "list the color of the shapes.", ", ".join(named), tuple(range(len(named))))


def _describe(scene: Scene, rng: Generator) -> Question:
    index = _clearly_placed(scene, rng)
    thing: Thing = scene.things[index]
    return Question(
        "describe", f"describe the {thing.kind}.", f"{thing.size}, {thing.colour}, {' '.join(thing.quadrant)}", (index,)
    )


QUESTION_KINDS: dict[str, Callable[[Scene, Generator], Question]] = {
    "exist": _exist,
    "exist_adversarial": _exist_adversarial,
    "color": _colour,
    "shape": _shape,
    "count": _count,
    "reading": _reading,
    "relation": _relation,
    "position": _position,
    "multiple_choice": _multiple_choice,
    "list": _list,
    "list_colors": _list_colours,
    "describe": _describe,
}
SEVERAL_ITEMS = frozenset({"list", "list_colors", "describe"})  # kinds whose answer is a comma-separated set
