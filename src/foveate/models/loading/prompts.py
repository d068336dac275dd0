"""Chat prompts of a checkpoint, as text and as tokens."""

from array import array
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any

from foveate.core.arrangement import Arrangement
from foveate.core.errors import DataError, UnsupportedModel, shown
from foveate.models.backbone.adapter import Adapter
from foveate.models.loading.processor import TEMPLATES

_MARK = "foveate-question"  # stands in a chat prompt where a question will
_TEXTS = 100_000  # whose tokens are remembered
_WITHOUT_TEMPLATE = (("llava", "llama"),)
"""Types of model and language model whose original checkpoints, LLaVA-1.5, came without a chat template."""


@dataclass(frozen=True, eq=False)
class Prompts:
    """Writes prompts by the chat template of a checkpoint, and spells them by its tokenizer.

    Attributes:
        adapter: Of the model.
        processor: Of the checkpoint, or its parts.
    """

    adapter: Adapter
    processor: Any

    def written(self, content: Sequence[str | None], system: str = "") -> str:
        """Returns the chat prompt of one turn, by the checkpoint's chat template.

        Checkpoints of LLaVA-1.5 without a template are asked as Vicuna was trained, "USER: ... ASSISTANT:".

        Args:
            content: Texts, and None where an image stands.
            system: What comes before the turn; empty means what the checkpoint's template has.

        Raises:
            UnsupportedModel: The checkpoint has no chat template.
        """
        if self.processor.chat_template:
            placeholder = {"type": self.adapter.modality}
            parts = [placeholder if part is None else {"type": "text", "text": part} for part in content]
            turns = [{"role": "system", "content": [{"type": "text", "text": system}]}] if system else []
            turns.append({"role": "user", "content": parts})
            return self.processor.apply_chat_template(turns, add_generation_prompt=True)
        kinds = (self.adapter.model.config.model_type, self.adapter.text_config.model_type)
        if kinds not in _WITHOUT_TEMPLATE:
            raise UnsupportedModel(
                f"no chat template, so nobody knows how a {kinds[0]} with a {kinds[1]} is asked: looked for "
                f"{TEMPLATES}; put the template that it was trained with into chat_template.jinja"
            )
        image = f"{self.processor.image_token}\n"
        turn = "".join(image if part is None else part for part in content)
        return f"{system} USER: {turn} ASSISTANT:".lstrip()

    @cached_property
    def spelled(self) -> Callable[..., array]:
        """Tokens of a question about an image or about text, or of an answer to it.

        They are remembered, for every method of a comparison asks the same.
        """

        def spelled(question: str, answer: str | None = None, image: bool = True) -> array:
            shown = [None] if image else []
            if self._holds_control(question):
                before, after = self.written([*shown, _MARK]).split(_MARK)
                tokens = [self.ids(before), self._plain(question), self.ids(after, special=False)]
                asked, prompt = after, [token for part in tokens for token in part]
            else:
                asked = self.written([*shown, question])
                prompt = self.ids(asked) if answer is None else []
            return array("i", prompt if answer is None else self.continued(asked, answer))

        return lru_cache(_TEXTS)(spelled)

    def continued(self, written: str, answer: str) -> list[int]:
        """Token ids of an answer as they follow a chat prompt, the end token last."""
        if self._holds_control(answer):
            tokens = self._plain(answer)
        else:
            before, whole = self.ids(written), self.ids(written + " " * (not written[-1:].isspace()) + answer)
            tokens = whole[len(before) :] if whole[: len(before)] == before else self.ids(answer, special=False)
        end = self.processor.tokenizer.eos_token_id
        ends = self.adapter.ends
        return [*tokens, *([end] if end in ends else ends[:1])]

    def whole(self, text: str, arrangements: Sequence[Arrangement], data: Sequence[str] = ()) -> list[int]:
        """Returns the tokens of a chat prompt, with a whole run for each of its image tokens.

        Args:
            text: The prompt, as `written`.
            arrangements: Of its images, in reading order.
            data: The parts of it that come from data, in which nothing is a control token.

        Raises:
            DataError: It has not as many image tokens as images, or the token of a video.
        """
        ids = self._beside(text, data)
        if (found := ids.count(self.adapter.image_token)) != len(arrangements):
            raise DataError(f"{text!r} has {found} image tokens for {len(arrangements)} images: expected one for each")
        if others := self._of_others.intersection(ids):
            name = self.processor.tokenizer.convert_ids_to_tokens(min(others))
            raise DataError(f"{text!r} has {name!r}, which stands for what is not given: remove it from the text")
        return self.expanded(ids, arrangements)

    def expanded(self, ids: Sequence[int], arrangements: Sequence[Arrangement]) -> list[int]:
        """The prompt with a whole run for each of its image tokens, inside what the processor puts around one."""
        left, image = iter(arrangements), self.adapter.image_token
        edges = [[getattr(self.processor.tokenizer, name)] for name in self.adapter.image_boundary_tokens] or [[], []]

        def run() -> list[int]:
            return [*edges[0], *[image] * next(left).length, *edges[1]]

        if (places := list(ids).count(image)) != len(arrangements):
            raise DataError(f"{places} image tokens for {len(arrangements)} images in a prompt: expected one for each")
        return [token for i in ids for token in (run() if i == image else [i])]

    def ids(self, text: str, special: bool = True) -> list[int]:
        """Returns the tokens of a chat prompt, or with `special=False` of a part of one."""
        tokenizer = self.processor.tokenizer
        started = bool(tokenizer.bos_token) and text.startswith(tokenizer.bos_token)
        return tokenizer(text, add_special_tokens=special and not started)["input_ids"]

    def _beside(self, text: str, data: Sequence[str]) -> list[int]:
        """Tokens of a chat prompt of which some parts come from data.

        Raises:
            DataError: A part that holds a control token does not stand in the prompt as it is, or see `_plain`.
        """
        ids: list[int] = []
        rest, first = text, True
        for part in filter(self._holds_control, (part.strip() for part in data)):
            before, there, rest = rest.partition(part)
            if not there:
                raise DataError(
                    f"{shown(part)} holds what the model's tokenizer reads as a control token, and the chat template "
                    "does not write it as it is: remove it from the data"
                )
            ids += [*self.ids(before, special=first), *self._plain(part)]
            first = False
        return ids + self.ids(rest, special=first)

    @cached_property
    def _controls(self) -> frozenset[str]:
        """Texts that the tokenizer reads as single control tokens."""
        tokenizer = self.processor.tokenizer
        added = [str(token) for token in tokenizer.added_tokens_decoder.values() if token.special]
        image = [self.processor.image_token, tokenizer.convert_ids_to_tokens(self.adapter.image_token)]
        return frozenset({*tokenizer.all_special_tokens, *added, *filter(None, image)} - {""})

    @cached_property
    def _of_others(self) -> frozenset[int]:
        """Tokens that stand for an image or a video, other than those that this model is given here."""
        config, tokenizer = self.adapter.model.config, self.processor.tokenizer
        known: set[Any] = {getattr(config, f"{kind}_token_id", None) for kind in ("image", "video")}
        if spelled := getattr(self.processor, "video_token", None):
            known.add(tokenizer.convert_tokens_to_ids(spelled))
        return frozenset(known - {None, self.adapter.image_token, tokenizer.unk_token_id})

    def _holds_control(self, text: str) -> bool:
        return any(control in text for control in self._controls)

    def _plain(self, text: str) -> list[int]:
        """Token ids of a text from data, in which nothing is a control token.

        Raises:
            DataError: The tokenizer knows no other way to write what is one.
        """
        tokenizer = self.processor.tokenizer
        tokens = tokenizer(text, add_special_tokens=False, split_special_tokens=True)["input_ids"]
        controls = {*tokenizer.all_special_ids, self.adapter.image_token} - {tokenizer.unk_token_id}
        if found := controls.intersection(tokens):
            name = tokenizer.convert_ids_to_tokens(min(found))
            raise DataError(
                f"{shown(text)} holds {name!r}, which the model's tokenizer reads as a control token and cannot write "
                "otherwise: remove it from the data"
            )
        return tokens
