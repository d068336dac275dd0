"""The chat template of a checkpoint is found wherever transformers looks for it, and never invented."""

import json
import shutil

import pytest
from transformers import AutoProcessor, AutoTokenizer, MistralConfig

from foveate.core.errors import UnsupportedModel
from foveate.models.loading.load import load
from foveate.models.loading.processor import Parts
from foveate.testing import checkpoints
from foveate.testing.checkpoints import save_family
from foveate.testing.families import FAMILIES

TEMPLATE = (
    "{% for message in messages %}{{ message['role'] }}|{% for part in message['content'] %}"
    "{% if part['type'] == 'text' %}{{ part['text'] }}{% else %}IMAGE{% endif %}{% endfor %}|{% endfor %}"
    "{% if add_generation_prompt %}NAME|{% endif %}"
)
OTHERS = [family for family in FAMILIES if family != "LLaVA-1.5"]


@pytest.fixture(scope="module")
def bare(tmp_path_factory):
    """Returns a folder without any template, and the image token."""
    known = {}

    def get(family, folder):
        if family not in known:
            made = save_family(family, tmp_path_factory.mktemp("family"))
            (made / "chat_template.jinja").unlink()
            known[family] = made
        return shutil.copytree(known[family], folder / "checkpoint")

    return get


def template(family, name):
    token = checkpoints.tokenizer(family).convert_ids_to_tokens(119)
    return TEMPLATE.replace("IMAGE", token).replace("NAME", name)


def put(folder, family, place, name):
    text = template(family, name)
    match place:
        case "chat_template.jinja":
            (folder / place).write_text(text)
        case "chat_template.json":
            (folder / place).write_text(json.dumps({"chat_template": text}))
        case "additional":
            (folder / "additional_chat_templates").mkdir()
            for name in ("default", "tools"):
                (folder / f"additional_chat_templates/{name}.jinja").write_text(text if name == "default" else "other")
        case _:
            settings = json.loads((folder / place).read_text()) if (folder / place).exists() else {}
            (folder / place).write_text(json.dumps({**settings, "chat_template": text}))


PLACES = ["chat_template.jinja", "chat_template.json", "additional", "processor_config.json", "tokenizer_config.json"]


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("family", FAMILIES)
def test_a_template_is_found_wherever_transformers_looks(family, place, bare, tmp_path):
    folder = bare(family, tmp_path)
    put(folder, family, place, place)
    loaded = load(folder)
    assert loaded.chat_prompt(["Is ", None, "it?"]).replace("\n", "").endswith(f"it?|{place}|")
    assert loaded.chat_prompt([None, "?"], "Be brief.").startswith("system|Be brief.|user|")
    assert load(folder).identity == loaded.identity


@pytest.mark.parametrize("family", OTHERS)
def test_the_processors_template_is_preferred_as_transformers_prefers_it(family, bare, tmp_path):
    folder = bare(family, tmp_path)
    put(folder, family, "tokenizer_config.json", "tokenizer's")
    put(folder, family, "chat_template.json", "processor's")
    loaded = load(folder)
    assert loaded.chat_prompt([None, "?"]).endswith("|processor's|")
    assert AutoTokenizer.from_pretrained(folder).chat_template == template(family, "tokenizer's")
    if not isinstance(loaded.processor, Parts):
        turn = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "?"}]}]
        stock = AutoProcessor.from_pretrained(folder).apply_chat_template(turn, add_generation_prompt=True)
        assert loaded.chat_prompt([None, "?"]) == stock


def test_the_identity_knows_the_template(bare, tmp_path):
    folder = bare("Qwen2.5-VL", tmp_path)
    put(folder, "Qwen2.5-VL", "chat_template.json", "one")
    before = load(folder).identity
    put(folder, "Qwen2.5-VL", "chat_template.json", "other")
    assert load(folder).identity != before


def test_parts_that_are_saved_keep_their_template(bare, tmp_path):
    folder = bare("InternVL", tmp_path)
    put(folder, "InternVL", "chat_template.json", "one")
    loaded = load(folder)
    loaded.model.save_pretrained(tmp_path / "again")
    loaded.processor.save_pretrained(tmp_path / "again")
    assert load(tmp_path / "again").chat_prompt([None, "?"]) == loaded.chat_prompt([None, "?"])


@pytest.mark.parametrize("family", OTHERS)
def test_without_a_template_a_checkpoint_is_refused(family, bare, tmp_path):
    with pytest.raises(UnsupportedModel, match=r"no chat template, .*chat_template.json.*; put the template"):
        load(bare(family, tmp_path))


def test_the_original_llava_gets_the_prompt_format_of_vicuna(bare, tmp_path):
    loaded = load(bare("LLaVA-1.5", tmp_path))
    assert loaded.chat_prompt([None, "What is it?"]) == "USER: <image>\nWhat is it? ASSISTANT:"
    assert loaded.chat_prompt([None, "What is it?"], "Be brief.") == "Be brief. USER: <image>\nWhat is it? ASSISTANT:"


def test_a_llava_with_another_language_model_is_not(bare, tmp_path):
    loaded = load(bare("LLaVA-1.5", tmp_path))
    loaded.model.config.text_config = loaded.adapter.text_config = MistralConfig()
    with pytest.raises(UnsupportedModel, match="the prompt format of a llava with a mistral is unknown"):
        loaded.chat_prompt([None, "What is it?"])


@pytest.mark.parametrize("family", ["LLaVA-NeXT", "Qwen2.5-VL"])
def test_several_templates_of_which_none_is_the_default_are_named(family, bare, tmp_path):
    folder = bare(family, tmp_path)
    (folder / "additional_chat_templates").mkdir()
    for name in ("rag", "tools"):
        (folder / f"additional_chat_templates/{name}.jinja").write_text(name)
    with pytest.raises(UnsupportedModel, match=r"the chat templates are (rag, tools|tools, rag): expected one"):
        load(folder)
