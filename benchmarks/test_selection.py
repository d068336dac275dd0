"""Diverse selections of 320 of 2,880 patches from given similarities, for eight images at once and one by one."""

from itertools import cycle

import pytest
import torch

from benchmarks import loops
from benchmarks.results import Result
from foveate.analysis.rounds import mean, ratio, timed
from foveate.functional.diversity import coverage, determinantal, max_min
from foveate.functional.geometry import evenness
from foveate.functional.matching import cosine

IMAGES, PATCHES, KEEP = 8, 2880, 320


@pytest.fixture(scope="module")
def similarity() -> torch.Tensor:
    """Returns similarities of features that share a direction and lie near a subspace, as in real towers."""
    draw = torch.Generator().manual_seed(0)
    inner = torch.randn(IMAGES, PATCHES, 64, generator=draw) @ torch.randn(64, 1024, generator=draw)
    noise, common = torch.randn(IMAGES, PATCHES, 1024, generator=draw), torch.randn(1024, generator=draw)
    features = (inner + 3 * noise + 4 * common).double()
    return cosine(features, features)


@pytest.fixture(scope="module")
def quality() -> torch.Tensor:
    return torch.rand(IMAGES, PATCHES, generator=torch.Generator().manual_seed(1)).double()


@pytest.fixture(scope="module")
def everybody() -> torch.Tensor:
    return torch.ones(IMAGES, PATCHES, dtype=torch.bool)


@pytest.fixture
def compared(in_turn, found):
    """Returns a function that times the selection of all images and loops over single images, with equal choices."""

    def compare(name, rounds, together, plain, shortcut=None):
        chosen = []

        def timed_loop(loop):
            images = cycle(range(IMAGES))

            def alone():
                image = next(images)
                assert loop(image) == chosen[image].tolist()

            return timed(alone)

        chosen += together()
        sides = {"together": timed(together), "plain": timed_loop(plain)}
        sides |= {"shortcut": timed_loop(shortcut[1])} if shortcut else {}
        seconds = in_turn(sides, rounds, warm_up=0)
        results = [
            Result(
                f"{name}: 8 images one by one / at once", ratio(seconds["plain"], seconds["together"], IMAGES), "x", 5
            ),
            Result(f"{name}: 8 images at once", mean(seconds["together"]), "s"),
        ]
        if shortcut:
            times = ratio(seconds["shortcut"], seconds["together"], IMAGES)
            results.append(Result(f"{name}: 8 images one by one, {shortcut[0]} / at once", times, "x"))
        found(*results)

    return compare


def test_max_min(compared, similarity, everybody):
    compared(
        "max-min",
        16,
        lambda: max_min(similarity, everybody, KEEP),
        lambda image: loops.max_min(similarity[image], KEEP),
        ("with a running minimum", lambda image: loops.max_min_running(similarity[image], KEEP)),
    )


def test_determinantal(compared, similarity, quality, everybody):
    kernel = quality[:, :, None] * similarity * quality[:, None]
    compared(
        "determinantal",
        16,
        lambda: determinantal(kernel, everybody, KEEP),
        lambda image: loops.determinantal(kernel[image], KEEP),
        ("in memory set aside", lambda image: loops.determinantal_in_place(kernel[image], KEEP)),
    )


def test_coverage(compared, similarity, quality, everybody):
    compared(
        "coverage",
        4,
        lambda: coverage(similarity.mT, quality, 0 * quality, everybody, KEEP),
        lambda image: loops.coverage(similarity[image], quality[image], KEEP),
    )


def test_what_comes_before_and_beside(in_turn, found):
    features = torch.randn(IMAGES, PATCHES, 1024, generator=torch.Generator().manual_seed(0)).double()
    sides = {"cosine": timed(lambda: cosine(features, features)), "even": timed(lambda: evenness.__wrapped__(48, 60))}
    seconds = in_turn(sides, 3)
    found(
        Result("similarities of all pairs of 8 images, in float64", mean(seconds["cosine"]), "s"),
        Result("even order of 2,880 cells", mean(seconds["even"]), "s"),
    )
