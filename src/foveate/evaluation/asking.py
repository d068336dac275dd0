"""How a question is asked, and why one cannot be asked: the same for whoever asks it."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence

from foveate.core.arrangement import Arrangement
from foveate.core.errors import DataError
from foveate.data.prompts import format_prompt
from foveate.data.sample import VQASample
from foveate.evaluation.config import EvalConfig
from foveate.models.loading.load import LoadedModel

RECORD_IT = "mend the data, or let such questions be recorded as failed: --on-error skip"


def asked_text(loaded: LoadedModel, sample: VQASample) -> str:
    """What a model is asked, in the words of its family."""
    return format_prompt(sample, loaded.model.config.model_type)


def reference_of(loaded: LoadedModel, sample: VQASample) -> list[int]:
    """Returns the tokens of the reference answer that most annotators gave; of equals the first, of none nothing.

    Raises:
        DataError: It holds what the model's tokenizer cannot write.
    """
    references = Counter(sample.references).most_common(1)
    return loaded.reference(asked_text(loaded, sample), references[0][0] if references else "")


def prompt_of(loaded: LoadedModel, sample: VQASample, image: Arrangement | None, max_new_tokens: int) -> list[int]:
    """Returns the full prompt of a question that can be asked, and its reference answered.

    Args:
        loaded: The model.
        sample: The question.
        image: How its image is arranged; None for a text-only question.
        max_new_tokens: Longest answer.

    Raises:
        DataError: It holds what the model's tokenizer cannot write, or exceeds the model's context.
    """
    text = asked_text(loaded, sample)
    prompt = loaded.text_prompt(text) if image is None else loaded.prompt(text, image)
    reference_of(loaded, sample)
    # by the uncompressed prompt, so that the same questions fail whatever the compressor
    context = getattr(loaded.adapter.text_config, "max_position_embeddings", None)
    if context is not None and len(prompt) + max_new_tokens > context:
        raise DataError(
            f"its prompt of {len(prompt)} tokens and {max_new_tokens} of an answer exceed the model's context of "
            f"{context}"
        )
    return prompt


def why_not(sample: VQASample, loaded: LoadedModel | None = None, max_new_tokens: int = 1) -> str:
    """Returns why a question cannot be asked; nothing if it can.

    Args:
        sample: The question.
        loaded: The model; None judges the data alone.
        max_new_tokens: Longest answer.
    """
    if sample.problem:
        return sample.problem
    try:
        opened = sample.source and sample.source.open()
        if loaded is not None:
            image = loaded.image_inputs([opened])[1][0] if opened else None
            prompt_of(loaded, sample, image, max_new_tokens)
    except DataError as error:
        return str(error)
    return ""


def askable(
    config: EvalConfig, loaded: LoadedModel, samples: Iterable[VQASample], images: Mapping[str, Arrangement]
) -> Iterator[tuple[VQASample, list[int]]]:
    """Yields the questions about images that can be asked with their full prompts; text-only ones are left out.

    Args:
        config: Says what becomes of the others.
        loaded: The model.
        samples: The questions.
        images: How the images that were encoded are arranged, by `image_id`.

    Raises:
        DataError: A question cannot be asked, and the configuration says to stop there.
    """
    for sample in samples:
        if sample.problem or sample.image_id not in images:
            continue  # without an image, or refused by the encodings where the configuration says so
        try:
            prompt = prompt_of(loaded, sample, images[sample.image_id], config.max_new_tokens)
        except DataError as error:
            if config.on_error == "stop":
                raise DataError(f"question {sample.id!r}: {error}; {RECORD_IT}") from error
            continue
        yield sample, prompt


def none_left(samples: Sequence[VQASample], why: str) -> DataError:
    """Returns the error of a run that can ask none of its questions.

    Args:
        samples: All questions.
        why: Why the first cannot be asked.
    """
    return DataError(f"none of {len(samples)} questions can be asked; the first, {samples[0].id!r}: {why}")
