"""Times the parts of an answer on models of published sizes: `make bench-gpu`, for the core dependencies alone.

The same command goes on with what its file lacks, so a run may be stopped or bounded. `python -m benchmarks.gpu_table`
makes the page of the docs of all files.
"""

import argparse
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from time import monotonic
from typing import Any

import torch
from PIL import Image
from transformers.utils.import_utils import is_flash_attn_2_available, is_flash_attn_3_available

from benchmarks import towers
from benchmarks.gpu_file import FOLDER, Results
from benchmarks.shapes import SHAPES, build
from foveate.compressors import Compressor, Identity
from foveate.core.budget import resolve_keep
from foveate.core.errors import BudgetError, FoveateError
from foveate.methods.fitting import at_budget
from foveate.methods.registry import NAMES, VIDEO, check_names
from foveate.models.loading.load import LoadedModel
from foveate.profiling.rows import FULL, Setting, round_row
from foveate.profiling.speed import Batch, answer_batch, footprint, in_turn
from foveate.profiling.timing import check_length

BUDGETS = (1 / 9, 1 / 3, 1 / 2)
"""Equivalent tokens as a share of all; a method has the first of these that it can have."""
FIRST = ("vtc_cls", "random", "divprune", "fastv", "pyramiddrop", "visionzip", "scope", "cdpruner")
"""The methods that are measured before the others, if time is short."""
METHODS = tuple(dict.fromkeys((*FIRST, *(name for name in NAMES if name not in (FULL, *VIDEO)))))
LEAST = 2  # rounds, below which a setting counts as not measured
_QUESTION = "What is shown in the picture, and where?"


@dataclass(frozen=True)
class Options:
    """The options of a run.

    Attributes:
        device: The device.
        dtype: Precision of weights and activations, as torch names it.
        layers: Largest number of layers of the tower and of blocks; None means all.
        methods: Names of methods.
        rounds: Number of times that each setting is timed.
        new_tokens: Number of tokens of every answer.
    """

    device: str
    dtype: str
    layers: int | None
    methods: Sequence[str]
    rounds: int
    new_tokens: int = 16


@dataclass(frozen=True)
class Block:
    """The settings of one model, kernel and batch, which take turns.

    Attributes:
        options: The options of the run.
        results: The file of results.
        loaded: The model.
        key: Values of the columns that all rows share.
    """

    options: Options
    results: Results
    loaded: LoadedModel
    key: Mapping[str, Any]

    def measure(self, missing: Sequence[str], until: float) -> None:
        """Measures as many of the missing methods as fit.

        Args:
            missing: Their names.
            until: Time of `monotonic` after which no further method is begun, and no round after the first two.
        """
        first = self.results.next_round(self.key)
        batch = self._batch(self.loaded)
        self._towers([side for side in missing if side in towers.SIDES], batch, first)
        settings, taken, began = {}, {}, monotonic()
        for name in dict.fromkeys((FULL, *(name for name in missing if name in self.options.methods))):
            now = monotonic()
            if settings and now + (now - began) > until:  # the least rounds take as long as the costs did
                break
            try:
                key, compressor, own = self._setting(name, batch)
                taken[key] = footprint(own, compressor, self.options.new_tokens)
                settings[key] = partial(answer_batch, own, compressor, self.options.new_tokens)
            except (FoveateError, torch.OutOfMemoryError) as error:
                self._note(name, error)
        shape = Setting(self.key["size"], 0, self.key["batch"])
        for number in range(first, first + self.options.rounds):
            if number >= first + LEAST and monotonic() > until:
                break
            for one in in_turn(settings, taken, self.loaded.model.device, [number]):
                self.results.add({**self.key, **round_row(shape, self.options.new_tokens, one)})

    def _batch(self, loaded: LoadedModel) -> Batch:
        image = Image.radial_gradient("L").convert("RGB").resize((self.key["size"],) * 2)
        return Batch.of(loaded, [image] * self.key["batch"], [_QUESTION] * self.key["batch"])

    def _setting(self, name: str, batch: Batch) -> tuple[tuple[str, int], Compressor, Batch]:
        """Returns the key of a method, its compressor, and its batch, whose images may be smaller.

        Raises:
            FoveateError: The model does not support the method.
        """
        patches = batch.arrangements[0].patches
        if name == FULL:
            return (name, patches), Identity(), batch
        count, compressor = _at_first_budget(name, self.loaded, patches)
        small, compressor = compressor.resized(self.loaded)
        return (name, count), compressor, batch if small is self.loaded else self._batch(small)

    def _towers(self, sides: Sequence[str], batch: Batch, first: int) -> None:
        """Times the tower alone, after a warm-up that compares the rows."""
        if not sides:
            return
        try:
            difference = towers.difference(batch)
            for number in range(first, first + self.options.rounds):
                for side in sides[:: -1 if number % 2 else 1]:
                    row = {"method": side, "round": number, "vision_ms": towers.timed(side, batch)}
                    self.results.add({**self.key, **row, "difference": difference})
        except torch.OutOfMemoryError as error:
            self._note(towers.EAGER, error)

    def _note(self, name: str, error: Exception) -> None:
        why = "out of memory" if isinstance(error, torch.OutOfMemoryError) else str(error)
        self.results.add({**self.key, "method": name, "why": why})


def measure(options: Options, results: Results, models: Sequence[str], batches: Sequence[int], minutes: float) -> bool:
    """Measures what the file lacks; every block (model, kernel, batch) gets an equal share of the time that is left.

    Args:
        options: What all blocks share.
        results: The file.
        models: Names in `SHAPES`.
        batches: Numbers of questions per batch.
        minutes: Time after which nothing new begins.

    Returns:
        Whether the file lacks nothing any more.
    """
    end, built = monotonic() + 60 * minutes, 0.0
    blocks = [(name, kernel, batch) for name in models for kernel in kernels(options.device) for batch in batches]
    loaded: LoadedModel | None = None
    for number, (name, kernel, batch) in enumerate(blocks):
        key = _key(name, options.layers) | {"kernel": kernel, "batch": batch}
        if not _missing(options, results, key):
            continue
        if monotonic() + (built if loaded is None or loaded.name != name else 0) >= end:
            break
        if loaded is None or loaded.name != name:
            loaded, began = None, monotonic()  # the memory of the former model is freed first
            loaded = build(name, options.device, getattr(torch, options.dtype), options.layers)
            built = monotonic() - began
        model: Any = loaded.model
        model.set_attn_implementation(kernel)
        until = monotonic() + (end - monotonic()) / (len(blocks) - number)
        Block(options, results, loaded, key).measure(_missing(options, results, key), until)
        print(f"{name}, {kernel}, batch {batch}: {len(results.of_block(key))} rows", flush=True)
    return not any(
        _missing(options, results, _key(name, options.layers) | {"kernel": kernel, "batch": batch})
        for name, kernel, batch in blocks
    )


def kernels(device: str) -> list[str]:
    """Returns the attention kernels to measure: SDPA, and on a GPU the installed versions of FlashAttention."""
    if torch.device(device).type != "cuda":
        return ["sdpa"]
    flash = {"flash_attention_2": is_flash_attn_2_available(), "flash_attention_3": is_flash_attn_3_available()}
    return ["sdpa", *(name for name, there in flash.items() if there)]


def _key(name: str, layers: int | None) -> dict[str, Any]:
    depth = "all" if layers is None else " + ".join(map(str, SHAPES[name].depth(layers)))
    return {"model": name, "layers": depth, "size": SHAPES[name].side}


def _missing(options: Options, results: Results, key: Mapping[str, Any]) -> list[str]:
    sides = towers.SIDES if SHAPES[key["model"]].has_cls else ()
    return results.missing(key, (*sides, *options.methods), LEAST)


def _at_first_budget(name: str, loaded: LoadedModel, patches: int) -> tuple[int, Compressor]:
    """Returns the equivalent tokens and the compressor of a method at the first of `BUDGETS` that it can have.

    Raises:
        BudgetError: It can have none of them.
    """
    for share in BUDGETS[:-1]:
        with suppress(BudgetError):
            return resolve_keep(share, patches), at_budget(name, share, loaded.adapter, patches)
    return resolve_keep(BUDGETS[-1], patches), at_budget(name, BUDGETS[-1], loaded.adapter, patches)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measures, and prints where the results are.

    Args:
        arguments: The command line; None means that of the process.
    """
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu", description=__doc__)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--dtype", default="bfloat16", choices=["bfloat16", "float16", "float32"])
    parser.add_argument("--models", nargs="+", default=list(SHAPES), choices=list(SHAPES))
    parser.add_argument("--layers", type=int, help="at most so many layers of the tower and blocks: no real model then")
    parser.add_argument("--batches", nargs="+", type=int, default=[1, 8, 32], help="questions per batch")
    parser.add_argument("--methods", nargs="+", default=list(METHODS), help="names of methods")
    parser.add_argument("--rounds", type=int, default=5, help="rounds of each setting, at least two")
    parser.add_argument("--new-tokens", type=int, default=16, help="tokens of every answer, at least two")
    parser.add_argument("--minutes", type=float, default=9.0, help="time after which nothing new begins")
    parser.add_argument("--out", type=Path, default=FOLDER, help="folder of the file of results")
    given = parser.parse_args(arguments)
    check_names(given.methods)
    check_length(given.new_tokens, given.rounds)
    if given.rounds < LEAST or min(given.batches) < 1:
        parser.error(
            f"--rounds {given.rounds}, --batches {given.batches}: expected at least {LEAST} rounds, and 1 question"
        )
    if torch.device(given.device).type == "cpu" and given.layers is None:
        parser.error("no GPU was found: whole models take hours on a CPU; give --layers 2 for models of reduced depth")
    options = Options(given.device, given.dtype, given.layers, given.methods, given.rounds, given.new_tokens)
    results = Results.of(given.out, given.device, given.dtype)
    done = measure(options, results, given.models, given.batches, given.minutes)
    left = "" if done else "; the same command measures the rest"
    print(f"{len(results.rows)} rows in {results.path}{left}. Page: python -m benchmarks.gpu_table")


if __name__ == "__main__":
    main()
