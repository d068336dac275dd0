"""Loads data sets by name."""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from PIL import Image

from foveate.core.errors import DataError
from foveate.core.progress import bar
from foveate.data.names import CLIPS, FRAMES, GENERATED, SCENE_GRIDS, TABLE, TABLE_SPLIT, check_limit, parsed, table_of
from foveate.data.sample import InMemoryImage, Masks, VQASample
from foveate.data.scenes.clips import clip_samples
from foveate.data.scenes.questions import QUESTION_KINDS, make_question
from foveate.data.scenes.scene import SPLITS, Split, make_scene, stream

if TYPE_CHECKING:  # datasets takes a second to import
    import foveate.data.benchmark

SCENES_PER_SPLIT = 1000
"""Number of scenes, and of clips."""


def load_samples(
    name: str, split: str, limit: int | None = None, seed: int = 0, frames: int = FRAMES
) -> list[VQASample]:
    """Returns the first `limit` questions of a split; all questions about an image follow each other.

    Images of benchmarks are opened on demand, so a split of any size can be loaded.

    Args:
        name: "scenes" (images), "clips" (videos), "scenes:16" or "clips:16" (16 x 16 patches instead of 12 x 12), the
            name of a benchmark, or `<benchmark>:<location>` with a parquet file, a folder or a hub ID that has the
            benchmark's columns; or the path of a table of the user's own, `<path>` or `<path>:<metric>`
            (https://github.com/foveate/foveate/blob/main/docs/how_to/own_data.md).
        split: A split of that data set.
        limit: Number of questions; None means all.
        seed: Random seed of generated data.
        frames: Number of frames that are shown of each video.

    Raises:
        DataError: The data set or split is unknown, cannot be read, or has no questions.
    """
    known, location = parsed(name)
    check_limit(limit)
    if table := table_of(name):
        from foveate.data.table import table_samples

        samples = table_samples(table, split, limit)
    elif known in GENERATED:
        samples = _generated(known, split, limit, seed, int(location or SCENE_GRIDS[0]))
    else:
        samples = _benchmark(known).samples(split, limit, location)
    if not samples:
        raise DataError(f"split {split!r} of {name!r} has no questions")
    return [replace(sample, frames=frames) if sample.video and frames != FRAMES else sample for sample in samples]


def default_split(name: str) -> str:
    """Returns the split that results are usually reported for."""
    known, _ = parsed(name)
    own = {**dict.fromkeys(GENERATED, "test"), TABLE: TABLE_SPLIT}
    return own[known] if known in own else _benchmark(known).split


def answer_tokens(name: str) -> int:
    """Returns the maximum number of tokens of an answer."""
    known, _ = parsed(name)
    return 32 if known in (*GENERATED, TABLE) else _benchmark(known).answer_tokens


def data_hash(samples: Sequence[VQASample]) -> str:
    """Returns a hash of questions, references, evidence, and the encoded bytes of images and videos."""
    digest = hashlib.sha256()
    hashed: set[str] = set()
    for sample in bar(samples, "question", "reading images"):
        question = (sample.id, sample.image_id, sample.kind, sample.question, sample.references, sample.scoring)
        prompt = (sample.form, sample.options, sample.hint, sample.problem)
        digest.update(repr(question + prompt).encode() + sample.things.content())
        if sample.image_id not in hashed:
            hashed.add(sample.image_id)
            digest.update(_identity(sample))
    return digest.hexdigest()[:16]


def _benchmark(name: str) -> "foveate.data.benchmark.Benchmark":
    from foveate.data.benchmarks import benchmark_of

    return benchmark_of(name)


def _identity(sample: VQASample) -> bytes:
    try:
        if sample.video:
            return sample.frames.to_bytes(4) + sample.video.content()
        if not sample.several:
            return sample.sources[0].content() if sample.sources else b"no image"
        contents = [source.content() for source in sample.sources]
        return b"".join(len(content).to_bytes(8) + content for content in contents)
    except DataError as error:  # a missing image changes the hash too
        return str(error).encode()


def _generated(name: str, split: str, limit: int | None, seed: int, grid: int) -> list[VQASample]:
    if split not in SPLITS:
        raise DataError(f"split {split!r} of {name!r} is unknown; known: {', '.join(SPLITS)}")
    about = clip_samples if name == CLIPS else _scene_samples
    samples: list[VQASample] = []
    for index in bar(range(SCENES_PER_SPLIT), name[:-1], "drawing"):
        if limit is not None and len(samples) >= limit:
            break
        samples.extend(about(split, index, seed, grid))
    return samples[:limit]


def _scene_samples(split: Split, index: int, seed: int, grid: int) -> Iterator[VQASample]:
    scene = make_scene(split, index, seed, grid)
    image = InMemoryImage(Image.fromarray(scene.pixels))
    rng = stream(split, index, seed, 1)
    for kind in list(QUESTION_KINDS)[index % 2 :: 2]:  # half of the kinds, so that few questions see many images
        question = make_question(kind, scene, rng)
        yield VQASample(
            id=f"{split}-{index:05d}-{question.kind}",
            image_id=f"{split}-{index:05d}",
            sources=(image,),
            kind=question.kind,
            question=question.text,
            references=(question.answer,),
            scoring="set_f1" if QUESTION_KINDS[question.kind].several else "exact",
            things=Masks(scene.masks(question.needed)),
        )
