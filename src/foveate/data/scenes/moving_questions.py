"""Questions about clips, each with its answer and the frames that are needed to answer it.

Their words are those of the scenes, so "number two" means the second in time, and the four parts of a clip are numbered
from one to four.
"""

from collections.abc import Callable
from dataclasses import dataclass

from numpy.random import Generator

from foveate.data.scenes.moving import MovingScene, Track
from foveate.data.scenes.questions import NUMBERS
from foveate.data.scenes.tiles import PATCH

Needed = tuple[Track, tuple[int, ...]]
"""A track, and the numbers of the frames that show what the question needs of it."""
Ask = Callable[[MovingScene, Generator], tuple[str, str, list[Needed]]]


@dataclass(frozen=True, eq=False)
class ClipQuestion:
    """A question about a clip with its reference answer.

    Attributes:
        kind: Question type, a key of `CLIP_QUESTIONS`.
        text: The question.
        answer: The reference answer, one word.
        needed: What the answer needs.
    """

    kind: str
    text: str
    answer: str
    needed: tuple[Needed, ...]


def make_clip_question(kind: str, scene: MovingScene, rng: Generator) -> ClipQuestion:
    """Returns a question of a kind."""
    text, answer, needed = CLIP_QUESTIONS[kind](scene, rng)
    return ClipQuestion(kind, text, answer, tuple(needed))


def _order(scene: MovingScene, rng: Generator) -> tuple[str, str, list[Needed]]:
    """Asks for the thing that appears first, second and so on."""
    rank = int(rng.integers(len(scene.things)))
    needed = [(thing, (thing.start,)) for thing in scene.things[: rank + 1]]
    return f"which thing is number {NUMBERS[rank + 1]}?", scene.things[rank].name, needed


def _count(scene: MovingScene, rng: Generator) -> tuple[str, str, list[Needed]]:
    """Asks how many things are shown at any time."""
    return "how many things are there?", NUMBERS[len(scene.things)], [(t, tuple(t.frames)) for t in scene.things]


def _where(scene: MovingScene, rng: Generator) -> tuple[str, str, list[Needed]]:
    """Asks for the half where a thing is last; in half of the draws, if it can be, the thing has changed sides."""
    axis, names = (("upper", "lower"), ("left", "right"))[rng.integers(2)], rng.random() < 0.5
    down = axis[0] == "upper"
    sides = [(_side(scene, thing, 0, down), _side(scene, thing, -1, down), thing) for thing in scene.things]
    wanted = [(last, thing) for first, last, thing in sides if (first != last) == names]
    last, thing = (wanted or [(last, thing) for _, last, thing in sides])[int(rng.integers(len(wanted or sides)))]
    return f"where is the {thing.name}: {axis[0]}, {axis[1]}?", axis[last], [(thing, (thing.frames[-1],))]


def _side(scene: MovingScene, thing: Track, at: int, down: bool) -> bool:
    """Returns whether a thing is in the second half from the top or left, in its first (0) or last (-1) frame."""
    return thing.places[at][0 if down else 1] + thing.side / 2 > len(scene.ground) / PATCH / 2


def _when(scene: MovingScene, rng: Generator) -> tuple[str, str, list[Needed]]:
    """Asks for the part in which a thing appears; each part in which one does is equally likely."""
    part = int(rng.choice(sorted({thing.part for thing in scene.things})))
    things = [thing for thing in scene.things if thing.part == part]
    thing = things[rng.integers(len(things))]
    return f"from which number is there a {thing.name}?", NUMBERS[part + 1], [(thing, (thing.start,))]


def _text(scene: MovingScene, rng: Generator) -> tuple[str, str, list[Needed]]:
    text = scene.texts[rng.integers(2)]
    return f"what does the {text.colours[0]} text say?", text.name, [(text, tuple(text.frames))]


def _change(scene: MovingScene, rng: Generator) -> tuple[str, str, list[Needed]]:
    """Asks for the thing that changes from one colour to another; the frames before and after are needed."""
    changing = [thing for thing in scene.things if thing.colours[0] != thing.colours[-1]]
    thing = changing[rng.integers(len(changing))]
    first, last = thing.colours[0], thing.colours[-1]
    looks = [tuple(f for f, c in zip(thing.frames, thing.colours, strict=True) if c == one) for one in (first, last)]
    return f"which thing is {first} and {last}?", thing.name, [(thing, frames) for frames in looks]


CLIP_QUESTIONS: dict[str, Ask] = {
    "order": _order,
    "count": _count,
    "where": _where,
    "when": _when,
    "text": _text,
    "change": _change,
}
