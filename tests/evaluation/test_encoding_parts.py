"""Images and videos are encoded some at a time, with what each has alone."""

from dataclasses import replace
from weakref import ref

import numpy as np
import pytest
from PIL import Image

from foveate.core.errors import DataError
from foveate.data.clip import Clip
from foveate.data.sample import LazyMapping, VQASample
from foveate.evaluation.encodings import Encodings


def image_of(width, height, seed=0):
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8))


def test_images_that_the_processor_takes_only_one_by_one_are_encoded(loaded_of, tmp_path):
    loaded = replace(loaded_of("LLaVA-NeXT"), image_options={"do_pad": False})  # as many tiles as an image has
    images = {"wide": image_of(90, 30), "square": image_of(30, 31), "high": image_of(20, 70)}
    with pytest.raises(DataError, match="takes no image of"):
        loaded.image_inputs(list(images.values()))
    encodings = Encodings.of(loaded, images, tmp_path / "encodings")
    for name, image in images.items():
        assert encodings.arrangements[name] == loaded.image_inputs([image])[1][0]


def test_a_video_is_freed_before_the_one_after_the_next_is_opened(loaded_of, tmp_path):
    opened, alive = [], []

    def seen(sample):
        alive.append(sum(one() is not None for one in opened))
        clip = Clip([image_of(40, 40, 2 * int(sample.id) + frame) for frame in range(2)], [0.0, 1.0])
        opened.append(ref(clip))
        return clip

    media = LazyMapping({name: VQASample(name, name, (), "", "", (), "none") for name in "0123"}, seen)
    Encodings.of(loaded_of("LLaVA-OneVision"), media, tmp_path / "encodings")
    assert len(alive) == 4 and max(alive) == 1


def test_an_image_that_was_skipped_is_refused_later_by_a_run_that_stops(loaded_of, tmp_path):
    loaded, images = loaded_of("Qwen2.5-VL"), {"good": image_of(96, 96), "thin": image_of(2, 1000)}
    assert set(Encodings.of(loaded, images, tmp_path / "encodings", skip=True).arrangements) == {"good"}
    with pytest.raises(DataError, match="image 'thin': the model's image processor takes no image"):
        Encodings.of(loaded, images, tmp_path / "encodings")
