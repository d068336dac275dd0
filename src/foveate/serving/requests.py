"""Requests of a load test."""

import base64
import json
from collections.abc import Iterable
from io import BytesIO
from typing import Any

from PIL.Image import Image

from foveate.data.sample import VQASample


def bodies_of(model: str, samples: Iterable[VQASample], new_tokens: int) -> list[dict[str, Any]]:
    """Returns the arguments of a chat completion for each question about its image.

    Args:
        model: Name of the model on the server.
        samples: Questions about images.
        new_tokens: Number of tokens of every answer; the end-of-text token does not end it.
    """
    fixed = {"generation_config": json.dumps({"min_new_tokens": new_tokens})}
    return [
        {
            "model": model,
            "messages": [
                {
                    "role": "user",
                    "content": [
                        {"type": "image_url", "image_url": {"url": data_url(sample.image)}},
                        {"type": "text", "text": sample.question},
                    ],
                }
            ],
            "max_tokens": new_tokens,
            "extra_body": fixed,
        }
        for sample in samples
    ]


def data_url(image: Image) -> str:
    """Returns an image as a data URL, encoded as PNG."""
    encoded = BytesIO()
    image.save(encoded, "PNG")
    return f"data:image/png;base64,{base64.b64encode(encoded.getvalue()).decode()}"
