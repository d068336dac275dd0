"""Objects of COCO that a caption mentions.

The words are the names of COCO's 80 classes with common English synonyms that were chosen for this package. They are
not the synonyms of the CHAIR metric's authors, whose longer list belongs to their code.
"""

import re

CLASSES = """
person, people, man, woman, child, boy, girl, kid, baby, lady, guy, player, rider, skier, snowboarder, surfer, skater
bicycle, bike
car, automobile, taxi, sedan, suv
motorcycle, motorbike, scooter, motor bike, motor cycle
airplane, plane, jet, aircraft, air plane
bus, minibus, trolley
train, locomotive, tram
truck, pickup, lorry, firetruck
boat, ship, canoe, kayak, sailboat, ferry, raft, yacht
traffic light, street light, traffic signal, stop light, stoplight
fire hydrant, hydrant
stop sign
parking meter
bench
bird, duck, goose, seagull, gull, pigeon, parrot, owl, eagle, swan, penguin
cat, kitten, kitty
dog, puppy, pup
horse, pony, foal
sheep, lamb, ram, ewe
cow, cattle, bull, calf, ox
elephant
bear, panda
zebra
giraffe
backpack, knapsack
umbrella, parasol
handbag, purse, wallet
tie, necktie
suitcase, luggage, briefcase, suit case
frisbee
skis, ski
snowboard
sports ball, ball
kite
baseball bat
baseball glove, mitt
skateboard
surfboard
tennis racket, racket, racquet, tennis racquet
bottle
wine glass, wineglass, goblet
cup, mug
fork
knife
spoon
bowl
banana
apple
sandwich, burger, hamburger, cheeseburger
orange
broccoli
carrot
hot dog, hotdog
pizza
donut, doughnut
cake, cupcake, cheesecake
chair, seat, armchair, stool, recliner
couch, sofa
potted plant, houseplant
bed
dining table, table, desk
toilet, urinal
tv, television, monitor, tv monitor
laptop, laptop computer, notebook computer
mouse
remote
keyboard
cell phone, phone, cellphone, smartphone, mobile phone
microwave
oven, stove, stovetop
toaster
sink
refrigerator, fridge
book, textbook, paperback
clock
vase
scissors, shears
teddy bear, teddy
hair drier, hairdryer, hair dryer
toothbrush
"""
"""One class per line: its name in COCO, and its synonyms."""

_ANIMALS = ("bird", "cat", "dog", "horse", "sheep", "cow", "elephant", "bear", "zebra", "giraffe", "animal", "cub")
_IRREGULAR = {
    **{"men": "man", "women": "woman", "children": "child", "knives": "knife", "calves": "calf", "geese": "goose"},
    **{"mice": "mouse", "oxen": "ox", "buses": "bus", "ties": "tie", "neckties": "necktie"},
}
_WORD = re.compile(r"[a-z0-9]+(?:-[a-z0-9]+)*")


def singular(word: str) -> str:
    """Returns the singular of an English noun in lower case, and other words as they are or nearly so."""
    if word in _IRREGULAR:
        return _IRREGULAR[word]
    if len(word) < 4 or not word.endswith("s") or word.endswith(("ss", "us", "is")):
        return word
    if word.endswith("ies"):
        return f"{word[:-3]}y"
    return word[:-2] if word.endswith(("ches", "shes", "xes", "sses")) else word[:-1]


def _singular(term: str) -> str:
    return " ".join(map(singular, term.split()))


_LINES = [line.split(", ") for line in CLASSES.strip().splitlines()]
_CLASS_OF = {_singular(term): terms[0] for terms in _LINES for term in terms}
_PAIRS = {
    **{term: term for term in _CLASS_OF if " " in term},
    **{f"{age} {animal}": animal for age in ("baby", "adult") for animal in _ANIMALS},
    **{f"passenger {vehicle}": vehicle for vehicle in ("jet", "train")},
    **{"bow tie": "tie", "toilet seat": "toilet", "home plate": "home plate"},
}
"""The term that two words in a row count as; a qualifier such as "baby" names no person."""


def mentioned_objects(caption: str) -> list[str]:
    """Returns the COCO class of every mention of an object in a caption, in the order of the text.

    Words are compared in the singular, and two words that form a term count as that term only. In a caption that
    mentions a toilet, a seat is not a chair.

    Source: the rule of CHAIR (Rohrbach et al. 2018, arXiv 1809.02156) with other synonyms.
    """
    words = [singular(word) for word in _WORD.findall(caption.lower())]
    terms: list[str] = []
    while words:
        pair = " ".join(words[:2])
        terms.append(_PAIRS.get(pair, words[0]))
        words = words[2:] if pair in _PAIRS else words[1:]
    if "toilet" in terms:
        terms = [term for term in terms if term != "seat"]
    return [_CLASS_OF[term] for term in terms if term in _CLASS_OF]
