"""Data sets by name."""

import hashlib
from collections.abc import Callable, Sequence

from PIL import Image

from foveate.core.errors import DataError
from foveate.data.questions import SEVERAL_ITEMS, make_questions
from foveate.data.sample import VQASample
from foveate.data.scenes import SPLITS, make_scene, stream

SCENES_PER_SPLIT = 200


def load_samples(name: str, split: str, limit: int | None = None, seed: int = 0) -> list[VQASample]:
    """The first `limit` questions of a split; all questions about a picture follow each other.

    Args:
        name: A key of `DATASETS`.
        split: A split of that data set.
        limit: Number of questions; None means all.
        seed: Of generated data.

    Raises:
        DataError: Data set or split is unknown, or nothing is left.
    """
    if name not in DATASETS:
        raise DataError(f"data {name!r} is unknown; known: {', '.join(DATASETS)}")
    if limit is not None and limit < 1:
        raise DataError(f"limit={limit}: at least one question is needed; leave it out for the whole split")
    samples = DATASETS[name](split, limit, seed)[:limit]
    if not samples:
        raise DataError(f"split {split!r} of {name!r} has no questions")
    return samples


def data_hash(samples: Sequence[VQASample]) -> str:
    """Identifies questions, references, evidence and pictures."""
    digest = hashlib.sha256()
    for sample in samples:
        facts = (sample.id, sample.image_id, sample.kind, sample.question, sample.references, sample.scoring)
        digest.update(repr(facts).encode() + sample.evidence.tobytes())
    for image in {sample.image_id: sample.image for sample in samples}.values():
        digest.update(image.tobytes())
    return digest.hexdigest()[:16]


def _scenes(split: str, limit: int | None, seed: int) -> list[VQASample]:
    if split not in SPLITS:
        raise DataError(f"split {split!r} of 'scenes' is unknown; known: {', '.join(SPLITS)}")
    samples: list[VQASample] = []
    for index in range(SCENES_PER_SPLIT):
        if limit is not None and len(samples) >= limit:
            break
        scene = make_scene(split, index, seed)
        picture = Image.fromarray(scene.pixels)
        for question in make_questions(scene, stream(split, index, seed, 1)):
            samples.append(
                VQASample(
                    id=f"{split}-{index:05d}-{question.kind}",
                    image_id=f"{split}-{index:05d}",
                    image=picture,
                    kind=question.kind,
                    question=question.text,
                    references=(question.answer,),
                    scoring="set_f1" if question.kind in SEVERAL_ITEMS else "exact",
                    evidence=scene.masks(question.needed),
                )
            )
    return samples


DATASETS: dict[str, Callable[[str, int | None, int], list[VQASample]]] = {"scenes": _scenes}
