"""Loads a LLaVA-1.5 of real size and answers four questions with it: `python -m benchmarks.real_size`, on Linux.

Writes a folder of random weights in shards (14 GB with all 32 blocks), one weight at a time, and removes it afterwards.
Loading and answering run in processes of their own, whose memory is read from the kernel meanwhile. Pages of a mapped
file count as resident while they are in memory, although the kernel may drop them, so the two are separate.
"""

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor
from transformers import AutoModelForImageTextToText, LlavaProcessor

from benchmarks.shapes import SHAPES
from foveate.testing.checkpoints import tokenizer

GIB = 2**30
ANONYMOUS, MAPPED, RESIDENT = "RssAnon", "RssFile", "VmHWM"
_SHARD, _POOL = GIB, 2**22
_LOAD = "import sys; from foveate.models.loading.load import load; load(sys.argv[1])"


def write(folder: Path, blocks: int) -> int:
    """Writes a checkpoint folder of a LLaVA-1.5-7B with so many blocks, in bfloat16, and returns the bytes of weights.

    Args:
        folder: The folder, which exists.
        blocks: Number of blocks of the language model.
    """
    shape = SHAPES["LLaVA-1.5-7B"]
    config = shape.config(shape.tower, blocks)
    with torch.device("meta"):
        model: Any = AutoModelForImageTextToText.from_config(config, dtype=torch.bfloat16)
    torch.manual_seed(0)
    pool = (0.02 * torch.randn(_POOL)).bfloat16()
    index: dict[str, str] = {}
    for number, names in enumerate(_shards({name: p.nbytes for name, p in model.named_parameters()})):
        file = f"model-{number:05d}.safetensors"
        weights = {name: _drawn(pool, name, model.get_parameter(name).shape) for name in names}
        save_file(weights, folder / file, metadata={"format": "pt"})
        index |= dict.fromkeys(names, file)
    total = sum(p.nbytes for p in model.parameters())
    text = json.dumps({"metadata": {"total_size": total}, "weight_map": index})
    (folder / "model.safetensors.index.json").write_text(text, encoding="utf-8")
    config.architectures = [type(model).__name__]
    config.dtype = torch.bfloat16
    config.save_pretrained(folder)
    words = tokenizer(shape.family)
    tiles = {"patch_size": 14, "vision_feature_select_strategy": "default", "num_additional_image_tokens": 1}
    LlavaProcessor(shape.images(), words, chat_template=words.chat_template, **tiles).save_pretrained(folder)
    return total


def watched(command: Sequence[str]) -> tuple[float, dict[str, int]]:
    """Runs a command and returns its seconds and the largest number of bytes of each kind of memory of its process.

    Raises:
        CalledProcessError: The command failed.
    """
    began = time.perf_counter()
    peak: dict[str, int] = dict.fromkeys((ANONYMOUS, MAPPED, RESIDENT), 0)
    with subprocess.Popen(command) as process:
        while process.poll() is None:
            for name, value in _memory(process.pid):
                peak[name] = max(peak[name], value)
            time.sleep(0.02)
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, command)
    return time.perf_counter() - began, peak


def report(what: str, found: tuple[float, dict[str, int]], total: int) -> str:
    """Returns the seconds and the peaks as text, each also as a multiple of the weights."""
    seconds, peak = found
    parts = [f"{name} {peak[name] / GIB:.2f} GiB ({peak[name] / total:.3f} of the weights)" for name in peak]
    return f"{what}: {seconds:.0f} s; peaks: {', '.join(parts)}"


def _shards(sizes: dict[str, int]) -> Iterator[list[str]]:
    """Yields names of weights that together have at most the size of a shard, or one larger weight."""
    names: list[str] = []
    for name, size in sizes.items():
        if names and sum(sizes[other] for other in names) + size > _SHARD:
            yield names
            names = []
        names.append(name)
    yield names


def _drawn(pool: Tensor, name: str, shape: torch.Size) -> Tensor:
    """Returns a random weight, or ones for a norm; numbers repeat, on which time and memory do not depend."""
    if "norm" in name and name.endswith("weight"):
        return torch.ones(shape, dtype=pool.dtype)
    count = shape.numel()
    return pool.repeat(count // len(pool) + 1)[:count].view(shape).clone()


def _memory(process: int) -> Iterator[tuple[str, int]]:
    try:
        lines = Path(f"/proc/{process}/status").read_text().splitlines()
    except OSError:  # it has just ended
        return
    for line in lines:
        name, _, value = line.partition(":")
        if name in (ANONYMOUS, MAPPED, RESIDENT):
            yield name, 1024 * int(value.split()[0])


def main() -> None:
    """Writes the folder, loads it, answers four questions, and prints times and peaks."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.real_size", description=__doc__)
    parser.add_argument("--blocks", type=int, default=32, help="blocks of the language model; 32 are 14 GB")
    parser.add_argument("--method", default="vtc_cls")
    parser.add_argument("--keep", default="64")
    given = parser.parse_args()
    with TemporaryDirectory() as name:
        folder, began = Path(name) / "model", time.perf_counter()
        folder.mkdir()
        total = write(folder, given.blocks)
        print(f"{total / GIB:.2f} GiB of weights written in {time.perf_counter() - began:.0f} s", flush=True)
        print(report("loading", watched([sys.executable, "-c", _LOAD, str(folder)]), total), flush=True)
        answer = f"answer --method {given.method} --keep {given.keep} --limit 4 --dtype bfloat16 --max-new-tokens 8"
        command = [sys.executable, "-m", "foveate", *answer.split(), "--model", str(folder), "--out", f"{name}/runs"]
        print(report("four answers", watched(command), total), flush=True)


if __name__ == "__main__":
    main()
