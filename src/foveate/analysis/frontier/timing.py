"""Times the cells of a frontier, the vision tower included."""

from collections.abc import Mapping
from itertools import cycle, islice
from pathlib import Path

from foveate.analysis.speed.data import conditions_of, write_rounds
from foveate.compressors import Compressor
from foveate.data.sample import first_of_images
from foveate.evaluation import EvalConfig
from foveate.evaluation.run import cached_load, data_of
from foveate.profiling.rows import Setting, round_row
from foveate.profiling.speed import measure


def time_cells(
    config: EvalConfig, compressors: Mapping[tuple[str, int], Compressor], length: tuple[int, int, int], path: Path
) -> None:
    """Times every cell round by round, as `foveate speed` does, on the first images of the questions.

    Args:
        config: The study's configuration.
        compressors: The compressor of each cell by method and budget.
        length: Number of questions per batch, of tokens of every answer, and of rounds.
        path: File that the rounds are written to.
    """
    loaded = cached_load(config.model, config.device, config.dtype)
    samples, _ = data_of(config)
    batch, new_tokens, rounds = length
    first = first_of_images([sample for sample in samples if len(sample.sources) == 1 and not sample.problem]).values()
    questions = [(sample.image, sample.question) for sample in islice(cycle(first), batch)]
    found, failed = measure(loaded, questions, compressors, {}, (new_tokens, rounds))
    left_out = {f"{method} at {budget} tokens": why for (method, budget), why in failed.items()}
    rows = [round_row(Setting(max(questions[0][0].size), 0, batch), new_tokens, one) for one in found]
    write_rounds(rows, conditions_of(loaded, new_tokens, left_out, "not measured here"), path)
