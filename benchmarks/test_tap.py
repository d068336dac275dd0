"""Cost of recording the [CLS] rows of all layers while a CLIP tower runs with SDPA."""

import ctypes
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from time import perf_counter
from typing import Any, NamedTuple

import pytest
import torch

from benchmarks.models import PATCH_SIZE, with_tower
from benchmarks.results import Result
from foveate.analysis.rounds import growth, mean, ratio
from foveate.core.needs import ClsRows
from foveate.models.backbone import tile_tower as tiles
from foveate.models.backbone.attention_tap import tapped
from foveate.models.loading.load import adapt
from foveate.profiling.clock import peak_bytes

BATCH, MANY, LAYERS, MIB = 4, 16, 6, 2**20
_MMAP_THRESHOLD = -3  # mallopt(3)
SIDES = (24, 32, 48)
TOKENS = [side**2 + 1 for side in SIDES]


class Pass(NamedTuple):
    """One pass through the tower: seconds, additional memory, and seconds inside the tap."""

    seconds: float
    mib: float
    inside: float = 0.0


def measured(call: Callable[[], object]) -> Callable[[], Pass]:
    def run() -> Pass:
        spent: list[float] = []

        def clocked() -> None:
            start = perf_counter()
            call()
            spent.append(perf_counter() - start)

        peak = peak_bytes(clocked, "cpu")
        if peak is None:
            pytest.skip("peak memory is known on Linux alone")
        return Pass(spent[0], peak / MIB)

    return run


@pytest.fixture(autouse=True, scope="module")
def freed_memory_is_returned():
    """Returns freed memory to the system, so that resident memory measures what is in use."""
    if allocator := getattr(ctypes.CDLL(None), "mallopt", None):  # of glibc
        allocator(_MMAP_THRESHOLD, 2**16)


class Tower:
    """A tower with a square of patches, with and without the tap."""

    def __init__(self, side: int, layers: int, width: int = 1024, inner: int = 4096, batch: int = BATCH) -> None:
        self.model: Any = with_tower(side, layers, width, inner)
        self.adapter = adapt(self.model)
        size = side * PATCH_SIZE
        self.pixels = torch.randn(batch, 3, size, size, generator=torch.Generator().manual_seed(0))
        self.need = ClsRows(tuple(range(layers)))
        self.plain()

    def plain(self) -> None:
        self.model.model.vision_tower(self.pixels)

    def with_rows(self) -> torch.Tensor:
        images = {"pixel_values": self.pixels}
        arrangement = self.adapter.arrangements(images, [])[0]
        return self.adapter.encode(images, arrangement, (self.need,))[1][self.need]

    def with_matrices(self) -> torch.Tensor:
        tower = self.model.model.vision_tower
        tower.set_attn_implementation("eager")
        try:
            matrices = tower(self.pixels, output_attentions=True).attentions
        finally:
            tower.set_attn_implementation("sdpa")
        return torch.stack([matrix[:, :, 0, 1:] for matrix in matrices], 1)


@pytest.fixture
def listened(monkeypatch) -> Callable[[Tower], Callable[[], Pass]]:
    """Returns a function that measures a pass with the tap and the time inside its listener."""
    inside: list[float] = []

    @contextmanager
    def clocked(model, layers, listener) -> Iterator[None]:
        def listen(*call: Any) -> None:
            start = perf_counter()
            listener(*call)
            inside.append(perf_counter() - start)

        with tapped(model, layers, listen):
            yield

    monkeypatch.setattr(tiles, "tapped", clocked)

    def measure(tower: Tower) -> Callable[[], Pass]:
        def run() -> Pass:
            inside.clear()
            return measured(tower.with_rows)()._replace(inside=sum(inside))

        return run

    return measure


def test_rows_of_clip_large(in_turn, found, listened):
    tower = Tower(24, 24)
    sides = {"plain": measured(tower.plain), "rows": listened(tower), "matrices": measured(tower.with_matrices)}
    passes = in_turn(sides, 4, warm_up=0)
    seconds = {name: [run.seconds for run in runs] for name, runs in passes.items()}
    share = mean([100 * run.inside / run.seconds for run in passes["rows"]])

    def above(name: str) -> list[float]:
        return [run.mib - plain.mib for run, plain in zip(passes[name], passes["plain"], strict=True)]

    rows, matrices = (f"{what} of CLIP-L/14-336, batch 4" for what in ("[CLS] rows of all layers", "output_attentions"))
    found(
        Result(f"{rows}: time inside the tap", share, "%", at_most=3),
        Result(f"{rows}: tower with rows / plain SDPA", ratio(seconds["rows"], seconds["plain"]), "x", at_most=1.03),
        Result(f"{rows}: memory above plain SDPA", mean(above("rows")), "MiB", at_most=10),
        Result(f"{matrices}: tower / plain SDPA", ratio(seconds["matrices"], seconds["plain"]), "x"),
        Result(f"{matrices}: memory above plain SDPA", mean(above("matrices")), "MiB"),
    )
    torch.testing.assert_close(tower.with_rows(), tower.with_matrices(), atol=1e-5, rtol=1e-3)


# An exponent of 1 is in proportion to the tokens, 2 to their square, as the whole matrix would be.


def test_growth_of_time_with_the_number_of_patches(in_turn, found, listened):
    towers = {tokens: Tower(side, LAYERS, inner=256) for tokens, side in zip(TOKENS, SIDES, strict=True)}
    passes = in_turn({str(tokens): listened(tower) for tokens, tower in towers.items()}, 4)
    inside = [[run.inside for run in passes[str(tokens)]] for tokens in TOKENS]
    for tokens, times in zip(TOKENS, inside, strict=True):
        each = mean([1e6 * t / (tokens * BATCH * LAYERS) for t in times])
        found(Result(f"tap, {tokens:,} tokens: time per token and layer", each, "us"))
    exponent = growth(TOKENS, inside)
    found(Result("tap, from 577 to 2,305 tokens: exponent of time", exponent, "", at_most=1.25))


def test_growth_of_memory_with_the_number_of_patches(in_turn, found):
    """Uses a narrow tower with many rows, beside which other memory of the process is negligible."""
    towers = {tokens: Tower(side, LAYERS, 256, 256, MANY) for tokens, side in zip(TOKENS, SIDES, strict=True)}
    rows = {f"{tokens} rows": measured(tower.with_rows) for tokens, tower in towers.items()}
    passes = in_turn(rows | {str(tokens): measured(tower.plain) for tokens, tower in towers.items()}, 8)
    mib = [
        [run.mib - plain.mib for run, plain in zip(passes[f"{n} rows"], passes[str(n)], strict=True)] for n in TOKENS
    ]
    what = f"tap, width 256, {LAYERS} layers, batch {MANY}"
    for tokens, memory in zip(TOKENS, mib, strict=True):
        found(Result(f"{what}, {tokens:,} tokens: memory above plain SDPA", mean(memory), "MiB"))
    exponent = growth(TOKENS, mib)
    found(Result(f"{what}, from 577 to 2,305 tokens: exponent of memory", exponent, "", at_most=1.25))
