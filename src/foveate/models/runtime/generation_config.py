"""Greedy decoding of evaluations, whatever a checkpoint's generation_config asks for.

Penalties count the tokens of the prompt, whose number differs between methods, and sampling hides small differences
between methods. A warning names the settings that are not used.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from transformers import GenerationConfig, PreTrainedModel

_TOKENS = ("bos_token_id", "eos_token_id", "pad_token_id")
_CHANGING = (
    "do_sample num_beams num_beam_groups penalty_alpha guidance_scale repetition_penalty encoder_repetition_penalty "
    "no_repeat_ngram_size encoder_no_repeat_ngram_size bad_words_ids suppress_tokens begin_suppress_tokens "
    "forced_bos_token_id forced_eos_token_id sequence_bias exponential_decay_length_penalty min_length min_new_tokens "
    "watermarking_config stop_strings"
).split()

_NEUTRAL_AT_1 = ("num_beams", "num_beam_groups", "guidance_scale", "repetition_penalty", "encoder_repetition_penalty")


def unused(model: PreTrainedModel) -> dict[str, Any]:
    """Returns those settings of a checkpoint's generation_config that would change a greedy answer."""
    config: Any = model.generation_config
    settings = {name: getattr(config, name, None) for name in _CHANGING}
    return {name: value for name, value in settings.items() if value and not (name in _NEUTRAL_AT_1 and value == 1)}


def unused_warning(model: PreTrainedModel) -> str:
    """Returns a warning that names the unused settings; empty if there are none."""
    left = ", ".join(f"{name}={value!r}" for name, value in unused(model).items())
    return left and f"evaluations decode greedily: {left} of the checkpoint's generation_config is not used"


@contextmanager
def greedily(model: PreTrainedModel) -> Iterator[None]:
    """Makes `generate` of the stock model decode greedily by default; restores its generation_config on leaving."""
    before: Any = model.generation_config
    model.generation_config = GenerationConfig(**{name: getattr(before, name, None) for name in _TOKENS})
    try:
        yield
    finally:
        model.generation_config = before
