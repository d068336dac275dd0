"""The model of a server: each request's call of `generate` compresses the images of its own prompt."""

import time
from contextvars import ContextVar
from dataclasses import dataclass, field
from threading import Lock
from typing import Any

from torch import Tensor
from transformers.cli.serving.model_manager import ModelManager
from transformers.cli.serving.utils import Modality

from foveate.compressors import Compressor, Identity
from foveate.core.errors import UnsupportedModel, shown
from foveate.models.loading.load import LoadedModel
from foveate.models.runtime.prefix_cache import PrefixCache
from foveate.serving.conversation import ServedProcessor


@dataclass(frozen=True)
class Chosen:
    """The outcome of a request.

    Attributes:
        prompt: Tokens of the prompt after compression, in the mean over the blocks of the language model.
        content: What `Result.save` writes; None if nothing was attached.
        reused: Leading tokens of the prompt, before compression, whose keys and values were kept from another request.
    """

    prompt: float
    content: dict[str, Any] | None = None
    reused: int = 0


@dataclass(frozen=True, eq=False)
class ServedModel:
    """A loaded model with the compressor that all requests share.

    Requests take turns: an attached compressor replaces `generate` and `forward` of the model, and a prompt without
    an image needs the stock ones.

    Attributes:
        loaded: The model.
        compressor: The compressor; `Identity()` without a cache means the stock model, with nothing attached.
        prefixes: Cache of images and prompts; None keeps nothing from one request to the next, as a compressor that
            cuts inside the language model could not.
    """

    loaded: LoadedModel
    compressor: Compressor
    prefixes: PrefixCache | None = None
    _turn: Lock = field(default_factory=Lock, repr=False)

    def generate(self, inputs: dict[str, Any]) -> tuple[Tensor, Chosen]:
        """Returns what `generate` of the model returns, and what was chosen for the prompt's images.

        Args:
            inputs: The arguments of `generate`, for a single prompt.
        """
        model: Any = self.loaded.model
        prompt = inputs["input_ids"][0]
        visual = int((prompt == self.loaded.adapter.image_token).sum())
        with self._turn:
            if not visual or (self.compressor == Identity() and self.prefixes is None):
                return model.generate(**inputs), Chosen(len(prompt))
            with self.compressor.attached(self.loaded, self.prefixes) as result:
                output = model.generate(**inputs)
            reused = 0 if self.prefixes is None else self.prefixes.reused
            return output, Chosen(len(prompt) - visual + float(result.tokens), result.content, reused)


class Request:
    """The model as one request's handler sees it.

    Attributes:
        chosen: The outcome of its call of `generate`; None before.
        failure: The error of its call of `generate`; None without one.
    """

    def __init__(self, served: ServedModel) -> None:
        self._served = served
        self.chosen: Chosen | None = None
        self.failure: Exception | None = None

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401 (that of the model)
        return getattr(self._served.loaded.model, name)

    def generate(self, **inputs: Any) -> Tensor:  # noqa: ANN401 (as in transformers)
        """Returns what `generate` of the model returns; notes the outcome before the streamer ends."""
        streamer = inputs.get("streamer")
        if streamer is not None:
            inputs["streamer"] = _Unended(streamer)
        inputs["tokenizer"] = self._served.loaded.processor.tokenizer  # stop strings need it, not the processor
        try:
            output, self.chosen = self._served.generate(inputs)
        except Exception as error:
            self.failure = error
            raise
        if streamer is not None:
            streamer.end()
        return output


class _Unended:
    """A streamer that passes tokens on, and leaves the end to `Request`."""

    def __init__(self, streamer: Any) -> None:  # noqa: ANN401 (the protocol of `generate`)
        self.put = streamer.put

    def end(self) -> None:
        pass


CURRENT: ContextVar[Request] = ContextVar("request")
"""The request that a handler of chat completions prepares."""


class ServedModels(ModelManager):
    """The model manager of a server that has one model, loaded already.

    Overrides what `transformers serve` of 5.23 and 5.24 calls: `tests/serving` names both versions.

    Args:
        served: The model.
    """

    def __init__(self, served: ServedModel) -> None:
        super().__init__(model_timeout=-1)
        self.served, self.processor = served, ServedProcessor(served.loaded)
        self.force_model = served.loaded.name  # requests for other models are refused
        self._name = self.process_model_name(self.force_model)
        self._since = int(time.time())

    def load_model_and_processor(self, model_id_and_revision: str, *_: Any, **__: Any) -> Any:  # noqa: ANN401
        """Returns the model as the current request sees it, and its processor.

        Raises:
            UnsupportedModel: Another model is wanted.
        """
        if model_id_and_revision != self._name:
            raise UnsupportedModel(f"model {shown(model_id_and_revision)}: this server has {self._name!r} alone")
        return CURRENT.get(Request(self.served)), self.processor

    def get_model_modality(self, *_: Any, **__: Any) -> Modality:  # noqa: ANN401 (a static method there)
        """Returns that of models that take all kinds of parts, so that none is left out: the processor refuses some."""
        return Modality.MULTIMODAL

    def list_models(self, *_: Any, **__: Any) -> list[dict[str, Any]]:  # noqa: ANN401
        """Returns the entry of the model for `/v1/models`."""
        return [{"id": self.force_model, "object": "model", "created": self._since, "owned_by": "foveate"}]

    def get_gen_models(self) -> list[dict[str, Any]]:  # type: ignore[override] (a static method there)
        """Returns `list_models`, which transformers 5.23 calls by this name."""
        return self.list_models()
