"""Chat completions with the tokens after compression, and on request the kept patches, in the response."""

import json
from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Any

from fastapi import HTTPException
from fastapi.responses import JSONResponse, StreamingResponse
from transformers.cli.serving.chat_completion import ChatCompletionHandler
from transformers.cli.serving.utils import GenerationState

from foveate.core.errors import FoveateError, message_of
from foveate.serving.models import CURRENT, Request, ServedModels

_EVENT = "data: "


class CompressedChat(ChatCompletionHandler):
    """The handler of chat completions; its responses tell what compression left.

    Args:
        models: The server's model.
        state: See `ChatCompletionHandler`.
        kept: Whether responses have the kept patches of each image.
    """

    def __init__(self, models: ServedModels, state: GenerationState, kept: bool) -> None:
        super().__init__(models, state)
        self._models, self._kept = models, kept

    async def handle_request(self, body: dict, request_id: str) -> StreamingResponse | JSONResponse:
        """Returns the response of transformers' handler, with what compression left.

        Raises:
            HTTPException: The request cannot be answered as it is; status 400, with the reason.
        """
        request = Request(self._models.served)
        entered = CURRENT.set(request)
        try:
            response = await super().handle_request(body, request_id)
        except FoveateError as error:
            raise HTTPException(400, str(error)) from error
        except ValueError as error:  # of transformers, such as for a temperature
            raise HTTPException(400, message_of(error)) from error
        except (KeyError, TypeError, AttributeError) as error:
            if error is request.failure:
                raise
            raise HTTPException(
                400, f"the request is malformed ({type(error).__name__}: {message_of(error)})"
            ) from error
        finally:
            CURRENT.reset(entered)
        if isinstance(response, StreamingResponse):
            response.body_iterator = self._completed(response.body_iterator, request)
            return response
        return JSONResponse(self._with_outcome(json.loads(bytes(response.body)), request))

    def _with_outcome(self, content: dict[str, Any], request: Request) -> dict[str, Any]:
        if "usage" not in content or request.chosen is None:
            return content
        usage = content["usage"] | {
            "compressed_prompt_tokens": round(request.chosen.prompt, 3),
            "prompt_tokens_details": {"cached_tokens": request.chosen.reused},
        }
        kept = {"kept": request.chosen.content} if self._kept and request.chosen.content else {}
        return content | {"usage": usage} | kept

    async def _completed(self, chunks: Any, request: Request) -> AsyncIterator[str]:  # noqa: ANN401 (of starlette)
        """Yields the events of a stream; those with usage get the outcome, and an error becomes valid JSON."""
        async with aclosing(chunks):  # a client that leaves ends the generation
            async for chunk in chunks:
                yield "".join(f"{self._event(event, request)}\n\n" for event in chunk.split("\n\n") if event)

    def _event(self, event: str, request: Request) -> str:
        if request.failure is not None and event.startswith(f'{_EVENT}{{"error"'):
            return _EVENT + json.dumps({"error": {"message": str(request.failure), "type": "invalid_request_error"}})
        if '"usage"' not in event:
            return event
        return _EVENT + json.dumps(self._with_outcome(json.loads(event.removeprefix(_EVENT)), request))
