"""Words that a tokenizer does not know: not put around questions, and counted if a question has them."""

import json
from dataclasses import replace

import pytest

import foveate
from foveate.compressors import Identity
from foveate.data.load import load_samples
from foveate.data.prompts import FAMILIES, LLAVA, format_prompt, instruction_of
from foveate.evaluation import EvalConfig, evaluate
from foveate.evaluation.prompts import note_unknown_words, question_text

SHORT = "Answer the question using a single word or phrase."
QUESTIONS = 7


@pytest.fixture(scope="module")
def loaded():
    return foveate.load("reference")


@pytest.fixture(scope="module")
def samples():
    return load_samples("scenes", "test", limit=QUESTIONS)


def stock_answer(loaded, sample, text):
    content = [{"type": "image"}, {"type": "text", "text": text}]
    prompt = loaded.processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)
    inputs = loaded.inputs([prompt], [[sample.image]])
    output = loaded.model.generate(**inputs, max_new_tokens=10, do_sample=False)
    return loaded.text(output[:, inputs["input_ids"].shape[1] :].tolist())[0]


def test_seven_unknown_tokens_behind_the_question_of_a_scene_no_longer_change_its_answer(loaded, samples, tmp_path):
    rows = []
    for sample in samples:
        sample.image.save(tmp_path / f"{sample.image_id}.png")
        answer = sample.references[0]
        rows += [{"image": f"{sample.image_id}.png", "question": sample.question, "answer": answer, "id": sample.id}]
    table = tmp_path / "questions.jsonl"
    table.write_text("\n".join(map(json.dumps, rows)))
    records = evaluate(EvalConfig(Identity(), data=str(table), max_new_tokens=10, out=tmp_path)).read().to_pylist()
    found = {record["sample_id"]: (record["question"], record["prediction"]) for record in records}
    assert found == {s.id: (s.question, stock_answer(loaded, s, s.question)) for s in samples}
    before = {s.id: stock_answer(loaded, s, f"{s.question}\n{SHORT}") for s in samples}
    unknown = loaded.processor.tokenizer.unk_token_id
    assert loaded.prompt(f"?\n{SHORT}").count(unknown) == 7
    assert any(before[name] != answer for name, (_, answer) in found.items())


def test_a_model_that_knows_the_words_gets_them(samples):
    loaded, sample = foveate.load("reference"), replace(samples[0], form="short")
    assert question_text(loaded, sample) == sample.question
    loaded = foveate.load("reference")
    loaded.processor.tokenizer.add_tokens([*SHORT.split(), "phrase"])
    assert loaded.unknown_words(SHORT) == ()
    assert question_text(loaded, sample) == f"{sample.question}\n{SHORT}"


def test_a_tokenizer_without_an_unknown_token_knows_every_word():
    loaded = foveate.load("reference")
    assert loaded.unknown_words("is there a zebra? zebra") == ("zebra?", "zebra")
    loaded.processor.tokenizer.unk_token = None
    assert loaded.unknown_words("is there a yak?") == ()


def test_words_that_are_known_in_parts_only_are_named_by_the_whole_text(loaded):
    assert loaded.unknown_words("请直接回答选项字母。") == ("请直接回答选项字母。",)


@pytest.mark.parametrize("family", ["llava", "qwen2_vl", "internvl"])
def test_without_the_instruction_question_hint_and_options_remain(family, samples):
    full = replace(samples[0], question="Q {hint}?", hint="H", options=("a", "b"))
    for form, phrase in {**LLAVA, **FAMILIES.get(family, LLAVA)}.items():
        sample = replace(full, form=form)
        whole, bare = format_prompt(sample, family), format_prompt(sample, family, instruct=False)
        hint = phrase.hint.replace("{hint}", "H")
        lines = [phrase.option.format(letter=x, text=y) for x, y in ("Aa", "Bb")]
        options = "".join(f"\n{line}" for line in lines) if "{options}" in phrase.text else ""
        assert bare == (f"{hint}Q {{hint}}?{options}" if options else f"Q {{hint}}?{hint}")
        assert (bare == whole) == (instruction_of(form, family) == "")
        assert all(word in whole for word in instruction_of(form, family).split())
        assert not {"Answer", "Please", "question", "describes:", "选项字母"} & set(bare.split())


def test_unknown_words_of_questions_are_counted_once_with_three_examples(loaded, samples, capsys):
    questions = ["is there a zebra?", "is there a yak or a yak ?", "is there a gnu or a zebra?", "is there a red cup?"]
    asked = [replace(sample, question=text) for sample, text in zip(samples, questions, strict=False)]
    asked += [replace(asked[0], problem="it has no question"), replace(asked[0], options=tuple("abcdefghijk"))]
    for _ in range(2):
        note_unknown_words(loaded, asked)
    assert capsys.readouterr().err == (
        "3 of 4 questions have words that the tokenizer of 'reference' does not know, 7 in all, such as 'zebra?', "
        "'yak', 'or': the model reads each as an unknown token\n"
    )
    note_unknown_words(loaded, samples)
    assert capsys.readouterr().err == ""
