"""What turns pictures and texts into a model's inputs, also where its own processor class cannot be built."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers import AutoImageProcessor, AutoProcessor, AutoTokenizer


@dataclass(frozen=True, eq=False)
class Parts:
    """Image processor and tokenizer of a checkpoint, of which nothing else is used.

    The processors of some models also build one for videos, which needs torchvision; pictures and texts do not.
    """

    image_processor: Any
    tokenizer: Any

    @property
    def chat_template(self) -> str | None:
        return self.tokenizer.chat_template

    @property
    def image_token(self) -> str:
        return getattr(self.tokenizer, "image_token", None) or "<image>"

    def apply_chat_template(self, conversation: Any, **options: Any) -> str:  # noqa: ANN401 (as in transformers)
        """The conversation as text."""
        return self.tokenizer.apply_chat_template(conversation, tokenize=False, **options)

    def save_pretrained(self, folder: str | Path) -> None:
        """Writes both."""
        self.image_processor.save_pretrained(folder)
        self.tokenizer.save_pretrained(folder)


def load_processor(place: str, **options: Any) -> Any:  # noqa: ANN401 (a class per family)
    """The checkpoint's processor, or its parts."""
    try:
        processor = AutoProcessor.from_pretrained(place, **options)
        if hasattr(processor, "image_processor"):  # else it is the tokenizer alone
            return processor
    except (ImportError, AttributeError):  # how classes say that torchvision is not there
        pass
    except ValueError as error:  # how the automatic choice of a class does
        if "torchvision" not in str(error):
            raise
    return Parts(AutoImageProcessor.from_pretrained(place, **options), AutoTokenizer.from_pretrained(place, **options))
