"""Functions of transformers that the server calls or overrides, in the versions whose code was read."""

from importlib.metadata import version
from inspect import signature

import pytest
from transformers.cli.serving.chat_completion import ChatCompletionHandler
from transformers.cli.serving.model_manager import ModelManager
from transformers.cli.serving.server import build_server
from transformers.cli.serving.utils import BaseHandler, DirectStreamer

READ = ("5.23", "5.24")


def test_the_serving_code_of_this_version_was_read():
    found = version("transformers")
    assert found.startswith(READ), f"read transformers/cli/serving of {found}, run tests/serving, and add it to READ"


@pytest.mark.parametrize(
    ("function", "names"),
    [
        (
            build_server,
            "model_manager chat_handler completion_handler response_handler transcription_handler systemone_handler "
            "generation_state enable_cors",
        ),
        (ChatCompletionHandler.handle_request, "self body request_id"),
        (BaseHandler.__init__, "self model_manager generation_state chat_template_kwargs"),
        (ModelManager.load_model_and_processor, "self model_id_and_revision progress_callback tqdm_class gguf_file"),
        (ModelManager.get_model_modality, "model processor"),
        (DirectStreamer.put, "self value"),
        (DirectStreamer.end, "self"),
    ],
)
def test_a_seam_has_the_parameters_that_the_server_relies_on(function, names):
    assert list(signature(function).parameters) == names.split()


def test_one_of_the_two_names_of_the_list_of_models_is_there():
    assert {"list_models", "get_gen_models"} & set(dir(ModelManager))
