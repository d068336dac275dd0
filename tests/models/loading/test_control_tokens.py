"""Text of data is never read as control tokens."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from foveate.compressors import Identity
from foveate.core.errors import DataError
from foveate.evaluation import EvalConfig, evaluate
from foveate.models.loading.load import load
from foveate.models.loading.processor import Parts
from tests.data import tables


@pytest.fixture(scope="module")
def loaded(tiny):
    return load(tiny)


@pytest.fixture(scope="module")
def bytewise(loaded):
    """Returns the model with a byte-level tokenizer, as most checkpoints have, which can write any text."""
    words = loaded.processor.tokenizer
    specials = [words.convert_ids_to_tokens(i) for i in range(5)]
    assert specials.index("<image>") == loaded.adapter.image_token
    made = Tokenizer(models.BPE())
    made.pre_tokenizer, made.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    made.train_from_iterator([], trainers.BpeTrainer(special_tokens=specials, initial_alphabet=alphabet))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=made, eos_token="</s>", pad_token="<pad>")
    tokenizer.add_special_tokens({"additional_special_tokens": ["<image>"]}, replace_extra_special_tokens=False)
    tokenizer.chat_template = words.chat_template
    return replace(loaded, processor=Parts(loaded.processor.image_processor, tokenizer))


@pytest.mark.parametrize("control", ["<image>", "</s>", "<pad>"])
def test_a_control_token_in_a_question_or_an_answer_is_written_out(bytewise, control):
    question, image = f"what does {control} mean ?", bytewise.adapter.image_token
    run = bytewise.adapter.tower.grid.patches
    prompt = bytewise.prompt(question)
    assert prompt.count(image) == run
    ends = bytewise.processor.tokenizer.eos_token_id
    assert ends not in prompt
    assert bytewise.processor.tokenizer.decode([t for t in prompt if t != image]).count(control) == 1
    assert bytewise.reference("what ?", f"it is {control}")[:-1].count(image) == 0
    assert (
        bytewise.processor.tokenizer.decode(bytewise.reference("what ?", f"it is {control}")[:-1]) == f"it is {control}"
    )


def test_other_questions_are_written_as_before(bytewise):
    question = "what is <image ?"
    asked = bytewise.chat_prompt([None, question])
    ids = bytewise.processor.tokenizer(asked)["input_ids"]
    assert [t for t in bytewise.prompt(question) if t != 4] == [t for t in ids if t != 4]


def test_a_tokenizer_that_cannot_write_it_otherwise_refuses_the_question(loaded):
    with pytest.raises(DataError, match=r"holds '<image>', which the model's tokenizer reads as a control token"):
        loaded.prompt("what is <image> ?")


@pytest.mark.parametrize("size", [1, 256])
def test_a_row_with_an_image_token_is_named_or_recorded_as_failed_and_the_others_are_answered(tiny, tmp_path, size):
    rows = tables.pope_rows(5)
    rows[2]["question"] = "<image>\nIs there a bird ?"
    place = tables.write(tmp_path / "pope.parquet", rows, tables.POPE)
    config = EvalConfig(Identity(), tiny, f"pope:{place}", max_new_tokens=1, out=tmp_path / "runs", batch_size=size)
    with pytest.raises(DataError, match=r"question '.*' holds '<image>'.*--on-error skip"):
        evaluate(config)
    folder = evaluate(replace(config, on_error="skip"))
    assert folder.read().num_rows == len(rows) - 1
    (why,) = folder.failed().values()
    assert "holds '<image>'" in why


def test_sixteen_bits_given_by_hand_become_their_upper_eight(loaded):
    grey = np.linspace(0, 65535, 96 * 96).reshape(96, 96).astype(np.uint16)
    sixteen, eight = Image.fromarray(grey), Image.fromarray((grey >> 8).astype(np.uint8))
    pixels = [loaded.image_inputs([image])[0]["pixel_values"] for image in (sixteen, eight)]
    assert torch.equal(*pixels)
    with pytest.raises(DataError, match="32 bits per pixel"):
        loaded.image_inputs([Image.fromarray(grey.astype(np.int32))])


@pytest.mark.parametrize("control", ["<image>", "</s>", "<pad>"])
def test_a_control_token_in_what_lmms_eval_asks_is_written_out(bytewise, control):
    asked = [f"what does {control} mean ?", "what else ?"]
    written = bytewise.chat_prompt([None, *asked])
    image = Image.fromarray(np.zeros((40, 40, 3), dtype=np.uint8))
    ids = bytewise.inputs([written], [[image]], [asked])["input_ids"][0].tolist()
    assert ids.count(bytewise.adapter.image_token) == bytewise.adapter.tower.grid.patches
    assert bytewise.processor.tokenizer.eos_token_id not in ids
    words = [token for token in ids if token != bytewise.adapter.image_token]
    assert bytewise.processor.tokenizer.decode(words).count(control) == 1
    plain = bytewise.chat_prompt([None, "what ?"])
    one, other = (bytewise.inputs([plain], [[image]], data)["input_ids"] for data in ([["what ?"]], None))
    assert torch.equal(one, other)
    with pytest.raises(DataError, match="the chat template changes it"):
        bytewise.inputs([plain], [[image]], [[f"another {control}"]])
