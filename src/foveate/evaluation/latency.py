"""Latency of a single question."""

from itertools import islice

import torch
from torch.utils.benchmark import Timer

from foveate.evaluation.config import EvalConfig
from foveate.evaluation.prompts import failure_of, none_left, with_prompts
from foveate.evaluation.run import cached_load, data_of

_QUESTIONS = 8
_SECONDS = 1.0


def latency_ms(config: EvalConfig) -> float:
    """Returns the median milliseconds of a question in a batch of its own: the method, prefill and decoding.

    The first questions are answered one after the other until a second has passed, after a warm-up and synchronised
    (`torch.utils.benchmark`). Stored features are used, so the time of the vision tower, which most methods share, is
    not included. Questions about no image or several, and those that cannot be asked, are left out.

    Raises:
        DataError: A question cannot be asked, and `on_error` is "stop"; or none can.
    """
    from foveate.evaluation.answering import encodings_of  # Lightning takes seconds to import
    from foveate.evaluation.module import Answering

    loaded = cached_load(config.model, config.device, config.dtype)
    samples, questions = data_of(config)
    encodings = encodings_of(config, loaded, samples, questions)
    module = Answering(encodings, config.compressor, config.max_new_tokens, config.on_error == "skip", config.reuse)
    every = with_prompts(config, loaded, samples, encodings.arrangements)
    first = [sample for sample, _ in islice(every, _QUESTIONS)]
    if not first:
        raise none_left(samples, failure_of(samples[0], loaded, config.max_new_tokens) or "it is not about one image")

    def ask() -> None:
        with torch.inference_mode():
            for sample in first:
                module.predict_step([sample])

    timer = Timer("ask()", globals={"ask": ask}, num_threads=torch.get_num_threads())
    return 1e3 * timer.blocked_autorange(min_run_time=_SECONDS).median / len(first)
