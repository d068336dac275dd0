"""Prompts and reference answers of questions, and the reasons why a question cannot be asked."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache

from foveate.core.arrangement import Arrangement
from foveate.core.errors import DataError, shown
from foveate.data.prompts import LETTERS, format_prompt, instruction_of
from foveate.data.sample import PLACEHOLDER, VQASample
from foveate.evaluation.config import EvalConfig
from foveate.evaluation.ranks import notice
from foveate.models.loading.load import LoadedModel

RECORD_IT = "correct the data, or record such questions as failed: --on-error skip"


def question_text(loaded: LoadedModel, sample: VQASample) -> str:
    """Returns the question in the words that the model's family was trained with.

    Words around the question that the tokenizer does not know are left out: they would be unknown tokens, which the
    model was not trained with. Only the checkpoint, the code and the question's form decide that, and all three belong
    to a run's identity.
    """
    instruct = not loaded.unknown_words(instruction_of(sample.form, loaded.family))
    return format_prompt(sample, loaded.family, instruct)


def note_unknown_words(loaded: LoadedModel, samples: Iterable[VQASample]) -> None:
    """Prints how many questions have words that the model's tokenizer does not know, with three of the words.

    The evaluations of a study print it once.

    Args:
        loaded: The model.
        samples: The questions; those that cannot be asked do not count.
    """
    found: Counter[str] = Counter()
    questions = 0
    usable = [sample for sample in samples if not sample.problem and len(sample.options) <= len(LETTERS)]
    for sample in usable:
        text = question_text(loaded, sample)
        unknown = loaded.unknown_words(text.replace(PLACEHOLDER, " ") if sample.several else text)
        found.update(unknown)
        questions += bool(unknown)
    if questions:
        words = ", ".join(shown(word) for word, _ in found.most_common(3))
        _notice_once(
            f"{questions} of {len(usable)} questions have words that the tokenizer of {loaded.name!r} does not know, "
            f"{found.total()} in all, such as {words}: the model reads each as an unknown token"
        )


@cache
def _notice_once(text: str) -> None:
    notice(text)


@dataclass(frozen=True, eq=False)
class Prompted:
    """A question as a model is asked it.

    Attributes:
        sample: The question.
        text: Its words in the prompt; see `question_text`.
        prompt: The tokens of the uncompressed prompt.
        reference: The tokens of the most frequent reference answer, of the first one in a tie, end token included; the
            end token alone without references.
    """

    sample: VQASample
    text: str
    prompt: list[int]
    reference: list[int]

    @classmethod
    def of(
        cls, loaded: LoadedModel, sample: VQASample, images: Sequence[Arrangement], max_new_tokens: int
    ) -> "Prompted":
        """Writes the prompt of a question, after checking that the question can be asked.

        Args:
            loaded: The model.
            sample: The question.
            images: Arrangements of its images.
            max_new_tokens: Longest answer.

        Raises:
            DataError: The tokenizer cannot encode the question or its reference answer, the chat template puts an image
                elsewhere than the question, or the prompt with the longest answer exceeds the model's context.
        """
        text = question_text(loaded, sample)
        prompt = loaded.prompt_about(text, images)
        answer = max(sample.references, key=sample.references.count, default="")
        reference = loaded.reference(text, answer, max(1, len(sample.sources)))
        check_length(loaded, prompt, max_new_tokens)
        return cls(sample, text, prompt, reference)


def check_length(loaded: LoadedModel, prompt: Sequence[int], max_new_tokens: int) -> None:
    """Checks an uncompressed prompt, so that the same questions fail whatever the compressor.

    Raises:
        DataError: The prompt with the longest answer exceeds the model's context.
    """
    if loaded.context is not None and len(prompt) + max_new_tokens > loaded.context:
        raise DataError(
            f"its prompt of {len(prompt)} tokens and {max_new_tokens} of an answer exceed the model's context of "
            f"{loaded.context}"
        )


def failure_of(sample: VQASample, loaded: LoadedModel | None = None, max_new_tokens: int = 1) -> str:
    """Returns the reason why a question cannot be asked, or an empty string.

    Args:
        sample: The question.
        loaded: The model; None checks the data alone.
        max_new_tokens: Longest answer.
    """
    if sample.problem:
        return sample.problem
    try:
        clips = [sample.video.open(sample.frames)] if sample.video else []
        images = [source.open() for source in sample.sources]
        if loaded is not None:
            seen = loaded.video_inputs(clips)[1] if clips else []
            seen += loaded.image_inputs(images, [len(images)] if sample.several else None)[1] if images else []
            Prompted.of(loaded, sample, seen, max_new_tokens)
    except DataError as error:
        return str(error)
    return ""


def with_prompts(
    config: EvalConfig, loaded: LoadedModel, samples: Iterable[VQASample], images: Mapping[str, Arrangement]
) -> Iterator[tuple[VQASample, list[int]]]:
    """Yields the questions about one image that can be asked, each with its uncompressed prompt.

    Args:
        config: The evaluation; its `on_error` applies.
        loaded: The model.
        samples: The questions.
        images: Arrangements of the images that were encoded, by `image_id`.

    Raises:
        DataError: A question cannot be asked, and `on_error` is "stop".
    """
    for sample in samples:
        if sample.problem or sample.image_id not in images:
            continue  # about no image or several, or the encodings left it out because `on_error` is "skip"
        try:
            prompt = Prompted.of(loaded, sample, [images[sample.image_id]], config.max_new_tokens).prompt
        except DataError as error:
            if config.on_error == "stop":
                raise DataError(f"question {sample.id!r}: {error}; {RECORD_IT}") from error
            continue
        yield sample, prompt


def none_left(samples: Sequence[VQASample], why: str) -> DataError:
    """Returns the error of a run that can ask none of its questions.

    Args:
        samples: All questions.
        why: Reason why the first one cannot be asked.
    """
    return DataError(f"none of {len(samples)} questions can be asked; the first, {samples[0].id!r}: {why}")
