"""Loads a checkpoint's processor, or its image processor and tokenizer if the processor class cannot be built."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers import AutoImageProcessor, AutoProcessor, AutoTokenizer, ProcessorMixin

from foveate.core.errors import UnsupportedModel

TEMPLATES = (
    "chat_template.jinja, chat_template.json, additional_chat_templates/default.jinja, and 'chat_template' in "
    "processor_config.json and tokenizer_config.json"
)
"""The files in which transformers looks for a chat template."""


@dataclass(frozen=True, eq=False)
class Parts:
    """The image processor and the tokenizer of a checkpoint.

    The processors of some models also build a video processor, which needs torchvision; images and texts do not.

    Attributes:
        image_processor: The checkpoint's image processor.
        tokenizer: The checkpoint's tokenizer.
        template: The processor's chat template; None means that of the tokenizer.
    """

    image_processor: Any
    tokenizer: Any
    template: str | None = None

    @property
    def chat_template(self) -> str | None:
        return self.template or _default(self.tokenizer.chat_template)

    @property
    def image_token(self) -> str:
        return getattr(self.tokenizer, "image_token", None) or "<image>"

    @property
    def video_token(self) -> str | None:
        return getattr(self.tokenizer, "video_token", None)

    def apply_chat_template(self, conversation: Any, **options: Any) -> str:  # noqa: ANN401 (as in transformers)
        """Returns the conversation as text."""
        template = self.chat_template
        return self.tokenizer.apply_chat_template(conversation, chat_template=template, tokenize=False, **options)

    def save_pretrained(self, folder: str | Path) -> None:
        """Writes image processor, tokenizer and chat template to a folder."""
        self.image_processor.save_pretrained(folder)
        self.tokenizer.save_pretrained(folder)
        if self.template:
            (Path(folder) / "chat_template.jinja").write_text(self.template, encoding="utf-8")


def load_processor(source: str, **options: Any) -> Any:  # noqa: ANN401 (a class per family)
    """Loads the checkpoint's processor, or `Parts` of it; without a chat template it gets the tokenizer's."""
    try:
        processor = AutoProcessor.from_pretrained(source, **options)
        if hasattr(processor, "image_processor"):  # otherwise it is only the tokenizer
            processor.chat_template = _default(processor.chat_template) or _default(processor.tokenizer.chat_template)
            return processor
    except (ImportError, AttributeError, RecursionError):  # processor classes raise these without torchvision
        pass
    except ValueError as error:  # AutoProcessor raises this without torchvision
        if "torchvision" not in str(error):
            raise
    settings, _ = ProcessorMixin.get_processor_dict(source, **options)
    return Parts(
        AutoImageProcessor.from_pretrained(source, **options),
        AutoTokenizer.from_pretrained(source, **options),
        _default(settings.get("chat_template")),
    )


def _default(template: Any) -> str | None:  # noqa: ANN401 (as a file has it)
    """Returns the default chat template.

    Raises:
        UnsupportedModel: There are several templates, and none of them is called "default".
    """
    if not template or isinstance(template, str):
        return template or None
    if not isinstance(template, dict) or not isinstance(template.get("default"), str):
        known = ", ".join(map(str, template)) if isinstance(template, dict) else repr(template)
        raise UnsupportedModel(
            f"the chat templates are {known}: expected one, or one of them called 'default'; rename that file to "
            "additional_chat_templates/default.jinja"
        )
    return template["default"]
