"""Measures how long the parts of an answer take, and whether compression saves time, on one model and machine."""

from functools import partial
from itertools import cycle, islice, product
from pathlib import Path
from typing import Any, Literal

from foveate.core.budget import check_budgets
from foveate.data.names import SCENES
from foveate.methods.registry import check_names
from foveate.models.loading.names import AUTO, REFERENCE, Dtype, check_model
from foveate.profiling.timing import check_batches, check_frames, check_length, check_sizes

_NO_SECOND = "the loop of stock calls is for LLaVA-1.5 with a [CLS] token"


def main(
    methods: tuple[str, ...] = ("random", "vtc_cls", "visionzip", "divprune", "fastv", "pyramiddrop"),
    keep: tuple[int | float, ...] = (0.5, 0.11),
    batch: tuple[int, ...] = (1, 8),
    size: tuple[int, ...] = (),
    frames: tuple[int, ...] = (),
    new_tokens: int = 10,
    rounds: int = 20,
    model: str = REFERENCE,
    companion: str | None = None,
    device: str = AUTO,
    dtype: Dtype | Literal["auto"] = AUTO,
    attention: str = "sdpa",
    out: Path = Path("runs"),
) -> None:
    """Times the parts of an answer, for every method and for the uncompressed model with the same kernel.

    Writes `<out>/measure_speed/{rounds.parquet, table.csv, table.md, speed.png}`. LLaVA-1.5 is also timed as published
    scripts run it: one question at a time, with eager attention that returns all attention matrices. Run nothing else
    on the machine.

    Args:
        methods: Names of methods, or your own as ./file.py:function or package.module:function.
        keep: Budgets in equivalent tokens: counts, or fractions of an image's patches.
        batch: Numbers of questions per batch, each about another image.
        size: Sides of the images in pixels, for models that accept images of any size; default is 672.
        frames: Numbers of frames of videos, which are measured instead of images, on a model that takes videos.
        new_tokens: Number of tokens of every answer; the end-of-text token does not end it.
        rounds: Number of times that each setting is timed.
        model: "reference" (shipped), a checkpoint folder, or a hub ID.
        companion: Checkpoint of the CLIP model that the tower was taken from, for methods that compare patches with
            text.
        device: Device of the model, such as cpu or cuda; "auto" is cuda if there is one, else mps, else cpu.
        dtype: Type of weights and activations; "auto" is float32 on a CPU, and elsewhere that of the checkpoint.
        attention: Attention kernel by its name in transformers: sdpa, eager, flash_attention_2.
        out: Folder of all results.
    """
    check_names(methods)
    check_budgets(keep, needed=False)
    check_batches(batch)
    check_sizes(size)
    check_frames(frames)
    check_length(new_tokens, rounds)
    check_model(model)
    from foveate.analysis.speed.data import conditions_of, speed_folder, write_rounds
    from foveate.analysis.speed.report import ROUNDS, report
    from foveate.compressors import Identity
    from foveate.data.clip import Clip
    from foveate.data.load import load_samples
    from foveate.data.sample import first_of_images
    from foveate.data.scenes.questions import QUESTION_KINDS
    from foveate.methods.fitting import at_budgets
    from foveate.models.loading.automatic import resolved
    from foveate.models.loading.load import load
    from foveate.profiling.one_by_one import timed
    from foveate.profiling.rows import FULL, ONE_BY_ONE, TOTAL, Setting, round_row
    from foveate.profiling.speed import image_sizes, measure

    folder, loaded = speed_folder(out), load(model, *resolved(model, device, dtype), attention, companion)
    second = None if frames else timed(loaded, new_tokens, TOTAL)
    limit = len(QUESTION_KINDS) * max((*batch, *frames))
    samples = first_of_images(load_samples(SCENES, "test", limit=limit)).values()
    rows: list[dict[str, Any]] = []
    left_out: dict[str, str] = {}
    for side, shown, count in product(image_sizes(loaded, size, next(iter(samples)).image), frames or (0,), batch):
        images = [(s.image.resize((side, side)), s.question) for s in islice(cycle(samples), max(count, shown))]
        questions = images[:count]
        if shown:
            clip = Clip([image for image, _ in images[:shown]], list(range(shown)))
            questions = [(clip, question) for _, question in questions]
        patches = loaded.media_inputs([questions[0][0]])[1][0].patches
        compressors, unable = at_budgets(methods, keep, loaded.adapter, patches)
        counts = dict.fromkeys([patches, *(budget for _, budget in compressors)]) if second else ()
        found, failed = measure(
            loaded,
            questions,
            {(FULL, patches): Identity(), **compressors},
            {(ONE_BY_ONE, k): partial(second, images[:count], k) for k in counts if second},
            (new_tokens, rounds),
        )
        rows += [round_row(Setting(side, shown, count), new_tokens, one) for one in found]
        left_out |= {f"{name} at {k} of {patches} tokens": why for (name, k), why in (unable | failed).items()}
    write_rounds(rows, conditions_of(loaded, new_tokens, left_out, "" if second else _NO_SECOND), folder / ROUNDS)
    print(report(folder))
