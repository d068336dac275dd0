"""Chat prompts of a checkpoint, as text and as tokens."""

import re
from array import array
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any

from foveate.core.arrangement import Arrangement
from foveate.core.errors import DataError, UnsupportedModel, shown
from foveate.data.sample import PLACEHOLDER
from foveate.models.backbone.adapter import Adapter
from foveate.models.loading.processor import TEMPLATES

_MARK = "foveate-question"  # placeholder of the question in a chat prompt
_TEXTS = 100_000  # number of texts whose tokens are cached
_WITHOUT_TEMPLATE = (("llava", "llama"),)
"""Types of model and language model whose original checkpoints (LLaVA-1.5) have no chat template."""


def parts_of(question: str, images: int) -> list[str | None]:
    """Returns the parts of a turn: texts, and None for each image.

    In a question about several images each `PLACEHOLDER` is an image; without any, the images come first.
    """
    if images < 2 or PLACEHOLDER not in question:
        return [*[None] * images, question]
    parts = [part for text in question.split(PLACEHOLDER) for part in (text, None)][:-1]
    return [part for part in parts if part != ""]


@dataclass(frozen=True, eq=False)
class Prompts:
    """The prompts of a checkpoint, written by its chat template and tokenized by its tokenizer.

    Attributes:
        adapter: The model's adapter.
        processor: The checkpoint's processor, or `Parts` of it.
    """

    adapter: Adapter
    processor: Any

    def chat_prompt(self, content: Sequence[str | None], system: str = "") -> str:
        """Returns the chat prompt of one turn, by the checkpoint's chat template.

        Checkpoints of LLaVA-1.5 without a template get the format that Vicuna was trained with, "USER: ... ASSISTANT:".

        Args:
            content: The parts of the turn: a text, or None for an image.
            system: The system prompt; empty means that of the checkpoint's template.

        Raises:
            UnsupportedModel: The checkpoint has no chat template.
        """
        parts = [self.placeholder if part is None else {"type": "text", "text": part} for part in content]
        turns = [{"role": "system", "content": [{"type": "text", "text": system}]}] if system else []
        return self.conversation([*turns, {"role": "user", "content": parts}])

    @property
    def placeholder(self) -> dict[str, str]:
        """The part of a turn that stands for an image."""
        return {"type": self.adapter.modality}

    def conversation(self, turns: Sequence[Mapping[str, Any]], **options: Any) -> str:  # noqa: ANN401
        """Returns the chat prompt of a conversation, by the checkpoint's chat template.

        Args:
            turns: Role and content of each turn, as chat templates take them. The content is a list of parts of which
                each is a text or a `placeholder`.
            options: Values for the chat template, such as `tools`.

        Raises:
            UnsupportedModel: The checkpoint has no chat template, and the format of its prompts is unknown.
            DataError: The checkpoint has no chat template, and its format has no such turn.
        """
        if self.processor.chat_template:
            return self.processor.apply_chat_template(list(turns), add_generation_prompt=True, **options)
        kinds = (self.adapter.model.config.model_type, self.adapter.text_config.model_type)
        if kinds not in _WITHOUT_TEMPLATE:
            raise UnsupportedModel(
                f"no chat template, so the prompt format of a {kinds[0]} with a {kinds[1]} is unknown: looked for "
                f"{TEMPLATES}; put the template that it was trained with into chat_template.jinja"
            )
        forms = {
            "system": "{} ",
            "user": "USER: {} ASSISTANT:",
            "assistant": f" {{}}{self.processor.tokenizer.eos_token}",
        }
        if unknown := [turn["role"] for turn in turns if turn["role"] not in forms]:
            raise DataError(f"a turn of {shown(unknown[0])}: expected one of {', '.join(forms)}")
        image = f"{self.processor.image_token}\n"
        texts = ("".join(part.get("text", image) for part in turn["content"]) for turn in turns)
        return "".join(forms[turn["role"]].format(text) for turn, text in zip(turns, texts, strict=True))

    @cached_property
    def tokens(self) -> Callable[..., array]:
        """A cached function that returns the tokens of a question's prompt, or of an answer after it.

        Its arguments are the question, the answer (None for the prompt), the number of images in the prompt, and the
        texts that replace their marks (see `frames`).

        Raises:
            DataError: The function raises it if the template puts images elsewhere than the question has placeholders.
        """

        def tokens(question: str, answer: str | None = None, images: int = 1, frames: tuple[str, ...] = ()) -> array:
            content = parts_of(question, images)
            texts = [part for part in content if part is not None]
            if any(map(self._holds_control, texts)):
                turn = self._turn([None if part is None else _MARK for part in content])
                pieces = _framed(turn, {self._mark: iter(frames)}).split(_MARK)
                text, prompt = pieces[-1], self.ids(pieces[0])
                for data, piece in zip(texts, pieces[1:], strict=True):
                    prompt += [*self._plain(data), *self.ids(piece, special=False)]
            else:
                text = _framed(self._turn(content), {self._mark: iter(frames)})
                prompt = self.ids(text) if answer is None else []
            return array("i", prompt if answer is None else self.answer_tokens(text, answer))

        return lru_cache(_TEXTS)(tokens)

    def _turn(self, content: Sequence[str | None]) -> str:
        """Returns the chat prompt of one turn with texts and images in their order, also if the template changes it.

        Some templates put all images first. They write a text as it is, so the images are put into the text.

        Raises:
            DataError: The template changes the order all the same.
        """
        texts = [part is not None for part in content]
        if texts == sorted(texts):  # the images come first
            return self.chat_prompt(content)
        image = self.processor.image_token
        for joined in (False, True):
            marks = [_MARK if part is not None else image if joined else None for part in content]
            found = re.findall("|".join(map(re.escape, (_MARK, image))), self.chat_prompt(_joined(marks, joined)))
            if [part == _MARK for part in found] == texts:
                return self.chat_prompt(_joined([image if joined and p is None else p for p in content], joined))
        raise DataError(
            f"the chat template of this checkpoint puts images elsewhere than the question has {PLACEHOLDER}: leave "
            "the placeholders out, and all images stand before the question"
        )

    @cached_property
    def unknown_words(self) -> Callable[[str], tuple[str, ...]]:
        """A cached function that returns the words of a text that the tokenizer does not know.

        These are the words whose tokens include the unknown token, as often as they stand in the text; none if the
        tokenizer has no unknown token, or has bytes for every text.
        """
        tokenizer = self.processor.tokenizer

        def unknown_words(text: str) -> tuple[str, ...]:
            unknown = tokenizer.unk_token_id
            if unknown is None or unknown not in self.ids(text, special=False):
                return ()
            return tuple(word for word in text.split() if unknown in self.ids(word, special=False)) or (text,)

        return lru_cache(_TEXTS)(unknown_words)

    def answer_tokens(self, prompt: str, answer: str) -> list[int]:
        """Returns the token ids of an answer after a chat prompt, the end token last."""
        if self._holds_control(answer):
            tokens = self._plain(answer)
        else:
            before, whole = self.ids(prompt), self.ids(prompt + " " * (not prompt[-1:].isspace()) + answer)
            tokens = whole[len(before) :] if whole[: len(before)] == before else self.ids(answer, special=False)
        end = self.processor.tokenizer.eos_token_id
        ends = self.adapter.ends
        return [*tokens, *([end] if end in ends else ends[:1])]

    def with_images(self, text: str, arrangements: Sequence[Arrangement], data: Sequence[str] = ()) -> list[int]:
        """Returns the token ids of a chat prompt with all placeholders.

        Args:
            text: The prompt; see `chat_prompt`.
            arrangements: Arrangements of its images and videos, each kind in reading order.
            data: Its parts that come from data, which may not contain control tokens.

        Raises:
            DataError: The number of image or video tokens differs from the number of images or videos.
        """
        given = {kind: [one for one in arrangements if self.adapter.of(one) is kind] for kind in self.adapter.kinds}
        given = {kind: own for kind, own in given.items() if own or kind is self.adapter}
        ids = self._ids_with_data(text, data, {})
        for kind, own in given.items():
            if (found := ids.count(self._token_of_mark(kind))) != len(own):
                what = kind.modality
                raise DataError(f"{text!r} has {found} {what} tokens for {len(own)} {what}s: expected one for each")
        left = {self._token_of_mark(kind): iter(own) for kind, own in given.items()}
        ordered = [next(left[token]) for token in ids if token in left]
        tokenizer = self.processor.tokenizer
        if frames := {kind.mark(tokenizer): texts for kind, own in given.items() if (texts := self._frames(kind, own))}:
            ids = self._ids_with_data(text, data, frames)
        if others := (self._placeholders - {kind.image_token for kind in given}).intersection(ids):
            name = tokenizer.convert_ids_to_tokens(min(others))
            raise DataError(
                f"{text!r} has {name!r}, a placeholder for an input that is not given: remove it from the text"
            )
        for kind in {kind.image_token: kind for kind in given}.values():  # kinds may share their placeholder
            own = [one for one in ordered if self.adapter.of(one).image_token == kind.image_token]
            ids = self._expanded(kind, ids, own)
        return ids

    def expanded(self, ids: Sequence[int], arrangements: Sequence[Arrangement]) -> list[int]:
        """Expands each image token of a prompt to a run of placeholders, with the boundary tokens around it.

        Raises:
            DataError: The number of image tokens differs from the number of images.
        """
        return self._expanded(self.adapter, ids, arrangements)

    def _expanded(self, kind: Adapter, ids: Sequence[int], arrangements: Sequence[Arrangement]) -> list[int]:
        """Expands the tokens of one kind of inputs; see `expanded`."""
        runs, image = [run for one in arrangements for run in self.adapter.of(one).runs(one)], kind.image_token
        edges = [[getattr(self.processor.tokenizer, name)] for name in kind.image_boundary_tokens] or [[], []]
        places = [place for place, token in enumerate(ids) if token == image]
        if len(places) != len(runs):
            raise DataError(
                f"{len(places)} {kind.modality} tokens for {len(runs)} runs of them in a prompt: expected one for each"
            )
        whole: list[int] = []
        for place, before, run in zip(places, [-1, *places], runs, strict=False):
            whole += [*ids[before + 1 : place], *edges[0], *[image] * run, *edges[1]]
        return [*whole, *ids[places[-1] + 1 if places else 0 :]]

    def _token_of_mark(self, kind: Adapter) -> int:
        """Returns the token that stands once for each image or video in a prompt of the chat template."""
        tokenizer = self.processor.tokenizer
        return tokenizer.convert_tokens_to_ids(kind.mark(tokenizer)) if kind.image_mark else kind.image_token

    def about(self, question: str, arrangements: Sequence[Arrangement]) -> list[int]:
        """Returns the token ids of the chat prompt for images and a question, with all placeholders; see `expanded`."""
        ids = self.tokens(question, None, len(arrangements), self.frames(arrangements))
        return self.expanded(ids, arrangements)

    def frames(self, arrangements: Sequence[Arrangement]) -> tuple[str, ...]:
        """Returns the texts that replace the marks of images in a prompt; none if the marks stay as they are."""
        return self._frames(self.adapter, arrangements)

    def _frames(self, kind: Adapter, arrangements: Sequence[Arrangement]) -> tuple[str, ...]:
        """Returns the texts that replace the marks of one kind of inputs; see `frames`."""
        texts = tuple(kind.written(one, self.processor.tokenizer) for one in arrangements)
        return texts if all(texts) else ()

    @cached_property
    def _mark(self) -> str:
        """The text that stands for an image in prompts of the chat template; empty if the tokenizer has none."""
        return self.adapter.mark(self.processor.tokenizer)

    def ids(self, text: str, special: bool = True) -> list[int]:
        """Returns the token ids of a chat prompt, or with `special=False` of a part of one."""
        tokenizer = self.processor.tokenizer
        started = bool(tokenizer.bos_token) and text.startswith(tokenizer.bos_token)
        return tokenizer(text, add_special_tokens=special and not started)["input_ids"]

    def _ids_with_data(self, text: str, data: Sequence[str], frames: Mapping[str, Sequence[str]]) -> list[int]:
        """Returns the token ids of a chat prompt of which some parts come from data, framed elsewhere; see `_framed`.

        Raises:
            DataError: A part with a control token cannot be found in the prompt, or cannot be tokenized otherwise.
        """
        ids: list[int] = []
        rest, first, left = text, True, {mark: iter(texts) for mark, texts in frames.items()}
        for part in filter(self._holds_control, (part.strip() for part in data)):
            before, there, rest = rest.partition(part)
            if not there:
                raise DataError(
                    f"{shown(part)} holds text that the model's tokenizer reads as a control token, and the chat "
                    "template changes it: remove it from the data"
                )
            ids += [*self.ids(_framed(before, left), special=first), *self._plain(part)]
            first = False
        return ids + self.ids(_framed(rest, left), special=first)

    @cached_property
    def _controls(self) -> frozenset[str]:
        """The texts that the tokenizer reads as single control tokens."""
        tokenizer = self.processor.tokenizer
        added = [str(token) for token in tokenizer.added_tokens_decoder.values() if token.special]
        placeholders = [kind.image_token for kind in self.adapter.kinds]
        image = [self.processor.image_token, *map(tokenizer.convert_ids_to_tokens, placeholders)]
        return frozenset({*tokenizer.all_special_tokens, *added, *filter(None, image)} - {""})

    @cached_property
    def _placeholders(self) -> frozenset[int]:
        """The placeholder tokens of images and videos."""
        config, tokenizer = self.adapter.model.config, self.processor.tokenizer
        known: set[Any] = {getattr(config, f"{kind}_token_id", None) for kind in ("image", "video")}
        if video := getattr(self.processor, "video_token", None):
            known.add(tokenizer.convert_tokens_to_ids(video))
        return frozenset(known - {None, tokenizer.unk_token_id})

    def _holds_control(self, text: str) -> bool:
        return any(control in text for control in self._controls)

    def _plain(self, text: str) -> list[int]:
        """Returns the token ids of a text from data without control tokens.

        Raises:
            DataError: The tokenizer has no other tokens for a control token's text.
        """
        tokenizer = self.processor.tokenizer
        tokens = tokenizer(text, add_special_tokens=False, split_special_tokens=True)["input_ids"]
        controls = {*tokenizer.all_special_ids, *(kind.image_token for kind in self.adapter.kinds)}
        controls -= {tokenizer.unk_token_id}
        if found := controls.intersection(tokens):
            name = tokenizer.convert_ids_to_tokens(min(found))
            raise DataError(
                f"{shown(text)} holds {name!r}, which the model's tokenizer reads as a control token and has no other "
                "tokens for: remove it from the data"
            )
        return tokens


def _framed(text: str, frames: Mapping[str, Iterator[str]]) -> str:
    """Returns a text in which the next of these frames replace each mark, as far as there are any."""
    for mark, left in frames.items():
        if mark:
            first, *others = text.split(mark)
            text = first + "".join(next(left, mark) + other for other in others)
    return text


def _joined(content: Sequence[str | None], joined: bool) -> Sequence[str | None]:
    """Returns the parts of a turn, joined to one text if asked for; then none may be an image."""
    return ["".join(map(str, content))] if joined else content
