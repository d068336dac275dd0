"""The conversation of a request as inputs of the model: its images are decoded, its texts stay texts."""

import base64
import binascii
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from PIL.Image import Image
from transformers import BatchFeature

from foveate.core.errors import DataError, shown
from foveate.data.rgb import as_rgb
from foveate.data.stored import opened
from foveate.evaluation.prompts import check_length
from foveate.models.loading.load import LoadedModel

_DATA_URL = re.compile(r"data:image/[\w.+-]+;base64,", re.IGNORECASE)


@dataclass(frozen=True, eq=False)
class ServedProcessor:
    """A processor that makes the inputs of evaluations, for the server's handlers.

    The processor of a checkpoint would also open URLs and files of this machine that a request names.

    Attributes:
        loaded: The model.
    """

    loaded: LoadedModel

    @property
    def tokenizer(self) -> Any:  # noqa: ANN401 (a class per family)
        return self.loaded.processor.tokenizer

    def decode(self, *args: Any, **options: Any) -> str:  # noqa: ANN401 (as in transformers)
        """Returns tokens as text."""
        return self.tokenizer.decode(*args, **options)

    def apply_chat_template(
        self,
        conversation: Sequence[Mapping[str, Any]],
        tools: Sequence[Any] | None = None,
        load_audio_from_video: bool = False,
        **options: Any,  # noqa: ANN401 (as in transformers)
    ) -> BatchFeature:
        """Returns the inputs of the model for a conversation.

        Args:
            conversation: Turns with a list of parts each, as the server's handlers give them.
            tools: Descriptions of tools, for the chat template.
            load_audio_from_video: Not used, because videos are refused.
            options: Further values for the chat template, and those by which the handlers ask for tensors.

        Raises:
            DataError: There is no turn, a part is neither a text nor an image, an image is not a data URL or cannot be
                decoded, or the prompt exceeds the model's context.
        """
        if not conversation:
            raise DataError("there are no messages: expected at least one")
        of_handlers = ("add_generation_prompt", "return_tensors", "return_dict", "tokenize")
        values = {name: value for name, value in options.items() if name not in of_handlers}
        images: list[Image] = []
        turns = [{**turn, "content": [self._part(part, images) for part in turn["content"]]} for turn in conversation]
        texts = [part["text"] for turn in turns for part in turn["content"] if "text" in part]
        prompt = self.loaded.conversation(turns, **({"tools": tools} if tools else {}), **values)
        inputs = self.loaded.inputs([prompt], [images], [texts])
        check_length(self.loaded, inputs["input_ids"][0].tolist(), 1)
        return BatchFeature(inputs)

    def _part(self, part: Mapping[str, Any], images: list[Image]) -> dict[str, Any]:
        if part["type"] == "text" and isinstance(part["text"], str):
            return {"type": "text", "text": part["text"]}
        if part["type"] != "image":
            raise DataError(f"a part of type {shown(part['type'])}: expected a text, or an image_url")
        images.append(image_of(part["url"], f"image {len(images)}"))
        return {"type": self.loaded.adapter.modality}


def image_of(url: object, name: str) -> Image:
    """Returns the image of a data URL as upright RGB.

    Args:
        url: The URL, such as "data:image/png;base64,iVBORw0...".
        name: Name of the image in errors.

    Raises:
        DataError: It is another kind of URL, or its image cannot be decoded.
    """
    start = _DATA_URL.match(url) if isinstance(url, str) else None
    if not start or not isinstance(url, str):
        raise DataError(f"{name} is {shown(url)}: expected a data URL, data:image/png;base64,...; no other is opened")
    try:
        data = base64.b64decode(url[start.end() :], validate=True)
    except binascii.Error as error:
        raise DataError(f"{name} cannot be decoded: its data URL is not in base64 ({error})") from error
    with opened(data, name) as image:
        return as_rgb(image, name)
