"""Dense texts about a scene: many look-ups in few tokens, which questions alone give one at a time.

They are the detailed captions of this training. Each is a sequence of words of which only some are to be predicted.
"""

from numpy.random import Generator

from foveate.data.scenes.bitmaps import COLOURS
from foveate.data.scenes.questions import NUMBERS, colour_and_kind
from foveate.data.scenes.scene import Scene

Words = list[tuple[str, bool]]
"""Words, and whether each is to be predicted."""
_PROBES = 10


def dense_texts(scene: Scene, rng: Generator, count: int, shuffled: bool = True) -> list[Words]:
    """Returns `count` texts of different kinds; the first describes each thing, the others are drawn."""
    others = (rng.permutation(len(_OTHERS)) if shuffled else range(len(_OTHERS)))[: count - 1]
    return [_things(scene, rng), *(_OTHERS[i](scene, rng) for i in others)]


def _answer(words: str) -> Words:
    return [(word, True) for word in words.split()]


def _given(words: str) -> Words:
    return [(word, False) for word in words.split()]


def _things(scene: Scene, rng: Generator) -> Words:
    """Names each thing and predicts its size, colour, quadrant and what is right of it."""
    words: Words = []
    for i in rng.permutation(len(scene.things)):
        thing = scene.things[i]
        beside = thing.beside.spelled if thing.beside else ""
        facts = [thing.size, thing.colour, " ".join(scene.quadrant(thing.patches)), beside]
        words += _given(thing.kind) + _answer(" ".join(facts)) + _given(",")
    return words


def _existence(scene: Scene, rng: Generator) -> Words:
    """Names a colour and a kind, and predicts whether a thing has both; half do."""
    words: Words = []
    for _ in range(_PROBES):
        colour, kind, true, _ = colour_and_kind(scene, rng)
        words += _given(f"{colour} {kind}") + _answer("yes" if true else "no")
    return words


def _relations(scene: Scene, rng: Generator) -> Words:
    """Names two things, and predicts the direction from one to the other."""
    words: Words = []
    for _ in range(_PROBES // 2):
        one, other = (scene.things[i] for i in rng.permutation(len(scene.things))[:2])
        words += _given(f"{one.kind} {other.kind}") + _answer(scene.direction(one, other)) + _given(",")
    return words


def _texts(scene: Scene, rng: Generator) -> Words:
    """Names the colour of a string, and predicts its weight, characters and quadrant."""
    words: Words = []
    for i in rng.permutation(2):
        text = scene.strings[i]
        facts = [text.weight, text.spelled, " ".join(scene.quadrant(text.patches))]
        words += _given(f"{text.colour} text") + _answer(" ".join(facts)) + _given(",")
    return words


def _by_colour(scene: Scene, rng: Generator) -> Words:
    """Names a colour, and predicts how many things have it and, if it is one, which."""
    words: Words = []
    colours = {thing.colour for thing in scene.things}
    for colour in rng.permutation(list(COLOURS)):
        kinds = [thing.kind for thing in scene.things if thing.colour == colour]
        if colour in colours:
            words += (
                _given(colour)
                + _answer(" ".join([NUMBERS[len(kinds)], *(kinds if len(kinds) == 1 else ())]))
                + _given(",")
            )
    return words


_OTHERS = (_existence, _relations, _texts, _by_colour)
