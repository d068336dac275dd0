"""A server of a compressed model, asked by the client of OpenAI: answers, usage, kept patches, refusals."""

import json
import time
from concurrent.futures import ThreadPoolExecutor
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import openai
import psutil
import pytest
from PIL import Image

from foveate import load, load_samples
from foveate.evaluation import EvalConfig, evaluate
from foveate.methods import fastv, vtc_cls
from foveate.models.loading.text_only import answer_text
from tests.scripts import run
from tests.serving.served import NEW_TOKENS, SERVE, about, data_url, serving, turn
from tests.tiers import extended

KEEP, QUESTIONS = 36, 24


@pytest.fixture(scope="module")
def loaded():
    return load("reference")


@pytest.fixture(scope="module")
def samples():
    return load_samples("scenes", "test", limit=QUESTIONS)


@pytest.fixture(scope="module")
def server(loaded, tmp_path_factory):
    path = tmp_path_factory.mktemp("recipe") / "recipe.json"
    vtc_cls(keep=KEEP, start_layer=0).save(path, loaded)
    with serving(path, "--kept", "--largest-mib", "1") as found:
        yield found


def evaluated(compressor, folder):
    config = EvalConfig(compressor, limit=QUESTIONS, max_new_tokens=NEW_TOKENS, device="cpu", out=folder)
    return {row["sample_id"]: row["prediction"] for row in evaluate(config).read().to_pylist()}


@pytest.fixture(scope="module")
def expected(tmp_path_factory):
    return evaluated(vtc_cls(keep=KEEP, start_layer=0), tmp_path_factory.mktemp("records"))


@pytest.mark.guards("the server compresses: `ServedModel.generate` leaves the compressor out")
def test_answers_are_those_of_an_evaluation(server, samples, expected):
    assert {sample.id: server.answer(about(sample)) for sample in samples} == expected


def test_streamed_answers_are_those_of_an_evaluation(server, samples, expected):
    assert {sample.id: server.streamed(about(sample))[1] for sample in samples} == expected


def test_eight_clients_at_once_get_their_own_answers_and_kept_patches(server, samples, expected):
    def asked(sample):
        response = server.ask(about(sample))
        return sample.id, response.choices[0].message.content.strip(), response.kept["images"]

    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(asked, samples))
    assert {name: answer for name, answer, _ in found} == expected
    for (_, _, images), sample in zip(found, samples, strict=True):
        assert images == server.ask(about(sample)).kept["images"]


def test_usage_has_the_prompt_tokens_before_and_after_compression(server, loaded, samples):
    usage = server.ask(about(samples[0])).usage
    patches = loaded.adapter.tower.grid.patches
    assert usage.prompt_tokens == len(loaded.prompt(samples[0].question))
    assert usage.compressed_prompt_tokens == usage.prompt_tokens - patches + KEEP
    again = server.ask(about(samples[0])).usage  # of which more is kept
    assert server.streamed(about(samples[0]))[0][-1].usage == again
    assert again.compressed_prompt_tokens == usage.compressed_prompt_tokens


def test_kept_patches_are_those_that_a_result_saves(server, loaded, samples):
    inputs = loaded.inputs([loaded.chat_prompt([None, samples[0].question])], [[samples[0].image]])
    with vtc_cls(keep=KEEP, start_layer=0).attached(loaded) as result:
        loaded.model.generate(**inputs, max_new_tokens=1)
    kept = server.ask(about(samples[0])).kept
    assert kept == server.streamed(about(samples[0]))[0][-1].kept
    assert kept["images"][0].pop("scores") == pytest.approx(result.content["images"][0]["scores"], rel=1e-5)
    del result.content["images"][0]["scores"]
    assert [kept["images"][0][name] for name in ("kept", "merged", "dropped")] == [
        result.content["images"][0][name] for name in ("kept", "merged", "dropped")
    ]


def test_a_request_without_an_image_is_answered_by_the_stock_model(server, loaded):
    question = "is there a blue cup?"
    tokens = answer_text(loaded, [loaded.text_prompt(question)], NEW_TOKENS, [[2]]).tokens
    response = server.ask([turn(question)])
    assert response.choices[0].message.content.strip() == loaded.text(tokens)[0]
    assert response.usage.compressed_prompt_tokens == response.usage.prompt_tokens
    assert "kept" not in response.model_extra


def test_a_second_turn_is_asked_after_the_whole_conversation(server, loaded, samples):
    first, second = samples[:2]
    messages = [*about(first), turn("yes", role="assistant"), turn(second.question)]
    parts = lambda text: [{"type": "text", "text": text}]  # noqa: E731
    prompt = loaded.conversation(
        [
            {"role": "user", "content": [{"type": "image"}, *parts(first.question)]},
            {"role": "assistant", "content": parts("yes")},
            {"role": "user", "content": parts(second.question)},
        ]
    )
    inputs = loaded.inputs([prompt], [[first.image]])
    with vtc_cls(keep=KEEP, start_layer=0).attached(loaded):
        output = loaded.model.generate(**inputs, max_new_tokens=NEW_TOKENS)
    new = output[:, inputs["input_ids"].shape[1] :].tolist()
    assert server.answer(messages) == loaded.text(new)[0]


def test_later_questions_about_an_image_compute_only_what_is_new(server, samples):
    first, second, other = samples[14], samples[15], samples[7]
    assert first.image_id == second.image_id != other.image_id
    messages = about(first)
    usage = [server.ask(messages).usage]
    messages = [*messages, turn("yes", role="assistant"), turn(second.question)]
    for asked in (messages, about(second), about(other), about(second)):
        usage.append(server.ask(asked).usage)
    cached = [one.prompt_tokens_details.cached_tokens for one in usage]
    image = server.ask(about(first)).usage.prompt_tokens_details.cached_tokens
    assert cached[0] in (0, image)  # other tests may have asked about it
    assert usage[0].prompt_tokens <= cached[1] < usage[1].prompt_tokens
    assert 144 < cached[2] < usage[2].prompt_tokens and cached[3] < usage[3].prompt_tokens
    assert cached[4] == usage[4].prompt_tokens - 1  # the last token gives the answer


def refusal(call):
    with pytest.raises(openai.APIStatusError) as caught:
        call()
    assert "Traceback" not in caught.value.response.text
    reason = caught.value.response.json()["detail"]
    assert reason in str(caught.value)
    return caught.value.status_code, reason


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("data:image/png;base64,aGVsbG8=", "image 0 (5 bytes) cannot be decoded"),
        ("data:image/png;base64,a", "is not in base64"),
        ("http://127.0.0.1:1/cat.png", "expected a data URL"),
        ("/etc/hostname", "expected a data URL"),
        (data_url(Image.new("RGB", (96, 96)))[: len("data:image/png;base64,") + 80], "image 0 (60 bytes)"),
    ],
)
def test_an_image_that_cannot_be_decoded_is_refused_with_the_reason(server, samples, url, reason):
    status, detail = refusal(lambda: server.ask([turn("is there a blue cup?", url)]))
    assert status == 400 and reason in detail
    assert server.answer(about(samples[0])) == "yes"


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ({"messages": []}, "there are no messages"),
        ({"messages": "hello"}, "malformed"),
        ({}, "malformed"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "malformed"),
        ({"messages": [turn("?")], "max_tokens": "many"}, "many"),
        ({"messages": [{"role": "user", "content": [{"type": "video_url", "video_url": {"url": "x"}}]}]}, "'video'"),
        ({"messages": [turn("cup " * 600)]}, "exceed the model's context"),
        ({"messages": [turn("?")], "model": "other"}, "pinned to 'reference'"),
    ],
)
def test_a_request_that_cannot_be_answered_is_refused_with_the_reason(server, body, reason):
    sent = json.dumps({"model": "reference"} | body).encode()
    request = Request(f"{server.url}/chat/completions", sent, {"Content-Type": "application/json"})
    with pytest.raises(HTTPError) as caught:
        urlopen(request, timeout=60)
    assert caught.value.code == 400
    assert reason in json.loads(caught.value.read())["detail"]
    assert "Traceback" not in server.process.stderr


def test_a_body_that_is_too_large_is_refused(server, samples):
    with pytest.raises(openai.APIStatusError) as caught:
        server.ask([turn("?", "data:image/png;base64," + "A" * 2**20)])
    assert caught.value.status_code == 413
    assert server.answer(about(samples[0])) == "yes"


def test_an_error_in_a_stream_is_one_that_the_client_can_read(server):
    wrong = {"generation_config": json.dumps({"do_sample": True, "temperature": -1.0})}
    with pytest.raises(openai.APIError, match="temperature"):
        server.streamed([turn("?")], extra_body=wrong)
    assert refusal(lambda: server.ask([turn("?")], extra_body=wrong))[0] == 400


def test_the_answer_to_a_client_that_leaves_is_not_finished(server, samples):
    long = {"max_tokens": 300, "extra_body": {"generation_config": json.dumps({"min_new_tokens": 300})}}
    began = time.monotonic()
    server.ask(about(samples[0]), **long)
    whole = time.monotonic() - began
    stream = server.ask(about(samples[0]), stream=True, **long)
    next(iter(stream))
    stream.close()
    began = time.monotonic()
    server.answer(about(samples[0]))
    assert time.monotonic() - began < 0.6 * whole


def test_the_server_tells_its_health_and_its_model(server):
    with urlopen(f"{server.url.removesuffix('/v1')}/health") as response:
        assert json.load(response) == {"status": "ok"}
    assert [model.id for model in server.client.models.list()] == ["reference"]


def test_other_endpoints_are_those_of_transformers(server, samples):
    assert server.client.completions.create(model="reference", prompt="is there a", max_tokens=2).choices[0].text
    url = data_url(samples[0].image)
    content = [{"type": "input_image", "image_url": url}, {"type": "input_text", "text": samples[0].question}]
    answer = server.client.responses.create(
        model="reference", input=[{"role": "user", "content": content}], stream=False
    )
    assert answer.output_text.strip() == "yes"


def test_the_server_listens_on_this_machine_only(server):
    listening = [one for one in psutil.Process(server.process.pid).net_connections() if one.status == "LISTEN"]
    assert [one.laddr.ip for one in listening] == ["127.0.0.1"]


def test_an_address_in_use_is_an_error_before_the_model_is_loaded(server):
    port = server.url.rpartition(":")[2].removesuffix("/v1")
    ended = run("-c", SERVE, "full", "--model", "nothing", "--port", port, timeout=60)
    assert ended.returncode == 2 and f"port {port} cannot be used" in ended.stderr


def test_a_stopped_server_answers_the_requests_that_have_begun(samples):
    with serving("full") as server:
        long = {"max_tokens": 200, "extra_body": {"generation_config": json.dumps({"min_new_tokens": 200})}}
        stream = iter(server.ask(about(samples[0]), stream=True, **long))
        next(stream)
        server.process.send_signal(2)
        assert list(stream)[-1].usage.completion_tokens == 200
        assert server.process.wait(30) == 0
        assert server.process.stdout.endswith("stopped\n")


@extended("servers")
def test_methods_inside_the_language_model_answer_as_in_an_evaluation(loaded, samples, tmp_path):
    compressor = fastv(keep=KEEP)
    compressor.save(tmp_path / "recipe.json", loaded)
    expected = evaluated(compressor, tmp_path)
    with serving(tmp_path / "recipe.json") as server, ThreadPoolExecutor(4) as pool:
        answers = pool.map(lambda sample: server.streamed(about(sample))[1], samples)
        assert dict(zip([sample.id for sample in samples], answers, strict=True)) == expected
        usage = server.ask(about(samples[0])).usage
        assert KEEP < usage.compressed_prompt_tokens < usage.prompt_tokens
