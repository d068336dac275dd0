"""The server: routes, streaming and their errors are those of `transformers serve`."""

import logging
import socket

import uvicorn
from fastapi import FastAPI
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from starlette.middleware.body_limit import RequestBodyLimitMiddleware
from starlette.requests import Request as HttpRequest
from transformers.cli.serving.completion import CompletionHandler
from transformers.cli.serving.response import ResponseHandler
from transformers.cli.serving.server import build_server
from transformers.cli.serving.systemone import SystemOneHandler
from transformers.cli.serving.transcription import TranscriptionHandler
from transformers.cli.serving.utils import GenerationState

from foveate.core.errors import FoveateError
from foveate.serving.chat import CompressedChat
from foveate.serving.models import ServedModel, ServedModels


def app_of(served: ServedModel, kept: bool, largest: int) -> FastAPI:
    """Returns the application of a server.

    Args:
        served: The model.
        kept: Whether chat completions have the kept patches of each image.
        largest: Largest body of a request in bytes.
    """
    models, state = ServedModels(served), GenerationState()
    app = build_server(
        models,
        CompressedChat(models, state, kept),
        completion_handler=CompletionHandler(models, state),
        response_handler=ResponseHandler(models, state),
        transcription_handler=TranscriptionHandler(models, state),
        systemone_handler=SystemOneHandler(models, state),
        generation_state=state,
    )
    app.add_middleware(RequestBodyLimitMiddleware, max_body_size=largest)
    app.add_exception_handler(FoveateError, _refused)
    app.add_exception_handler(HTTPException, _refused)
    return app


def serve(app: FastAPI, listening: socket.socket) -> None:
    """Answers requests until the process gets SIGINT or SIGTERM; requests that have begun are answered."""
    logging.getLogger("transformers").setLevel(logging.ERROR)  # its handlers log each request as a warning
    try:
        uvicorn.Server(uvicorn.Config(app, log_level="warning")).run(sockets=[listening])
    except KeyboardInterrupt:  # uvicorn raises it when the server has stopped
        pass


async def _refused(_: HttpRequest, error: Exception) -> JSONResponse:
    """Returns the response to a refused request: `detail` as of FastAPI, and `error`, which clients of OpenAI show."""
    status, reason = (error.status_code, error.detail) if isinstance(error, HTTPException) else (400, str(error))
    shown = {"message": str(reason), "type": "invalid_request_error", "param": None, "code": None}
    return JSONResponse({"detail": reason, "error": shown}, status_code=status)
