"""A server in a process of its own, and a client's view of it."""

import base64
import re
from contextlib import contextmanager
from io import BytesIO

from openai import OpenAI

from tests.scripts import start, wait_for

SERVE = "import sys; sys.argv[:1] = ['foveate', 'serve']; from foveate.__main__ import main; main()"
NEW_TOKENS = 24


class Served:
    """A running server.

    Attributes:
        process: Its process.
        url: Its base URL.
        client: A client of the API.
    """

    def __init__(self, process):
        self.process = process
        self.url = re.search(r" on (http://\S+/v1);", process.stdout)[1]
        self.client = OpenAI(base_url=self.url, api_key="none", max_retries=0, timeout=60)

    def ask(self, messages, **options):
        options = {"max_tokens": NEW_TOKENS} | options
        return self.client.chat.completions.create(model="reference", messages=messages, **options)

    def answer(self, messages, **options):
        return self.ask(messages, **options).choices[0].message.content.strip()

    def streamed(self, messages, **options):
        """The events of a stream, and the text that they hold."""
        events = list(self.ask(messages, stream=True, **options))
        return events, "".join(event.choices[0].delta.content or "" for event in events).strip()


@contextmanager
def serving(*options):
    process = start("-c", SERVE, *options, "--port", "0")
    try:
        wait_for(process, lambda: "Ctrl-C stops it" in process.stdout)
        yield Served(process)
    finally:
        process.kill()


def data_url(image, form="PNG"):
    encoded = BytesIO()
    image.save(encoded, form)
    return f"data:image/{form.lower()};base64,{base64.b64encode(encoded.getvalue()).decode()}"


def turn(text, *urls, role="user"):
    images = [{"type": "image_url", "image_url": {"url": url}} for url in urls]
    return {"role": role, "content": [*images, {"type": "text", "text": text}]}


def about(sample):
    """The messages of a question about its image."""
    return [turn(sample.question, data_url(sample.image))]
