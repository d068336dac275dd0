"""The modes of `generate`."""

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from foveate.testing.decoding.setting import (
    GREEDY,
    MORE,
    NEW,
    Setting,
    check_close,
    check_equal,
    check_steps,
    check_stock,
    new_tokens,
    without_placeholders,
)
from foveate.testing.families import FAMILIES, VIDEO


def beams_by_hand(following: Callable[[list[int]], Tensor], beams: int, steps: int) -> list[tuple[float, list[int]]]:
    """Returns the best sequences of a beam search without placeholders, with the sums of their log-probabilities.

    Args:
        following: Returns the logits of the token that follows some tokens.
        beams: Number of beams.
        steps: Number of tokens of each sequence.
    """
    best: list[tuple[float, list[int]]] = [(0.0, [])]
    for _ in range(steps):
        candidates = []
        for score, tokens in best:
            log = without_placeholders(following(tokens).log_softmax(-1))
            candidates += [(score + float(log[token]), [*tokens, token]) for token in log.topk(beams).indices.tolist()]
        best = sorted(candidates, key=lambda beam: -beam[0])[:beams]
    return best


def generating(**options: Any) -> Callable[[Setting], None]:  # noqa: ANN401
    """Returns the check of a mode of `generate` whose logits must equal the reference."""

    def check(setting: Setting) -> None:
        stock_options = {name: value for name, value in options.items() if name != "cache_implementation"}
        check_stock(setting, **{**GREEDY, **stock_options})
        with setting.compressor.attached(setting.model) as run:
            output = setting.model.generate(**setting.inputs, **{**GREEDY, **options})
        check_steps(setting, run, output, options.get("num_return_sequences", 1))

    return check


def assisted(**options: Any) -> Callable[[Setting], None]:  # noqa: ANN401
    """Returns the check of a mode with drafts, whose tokens must equal those of greedy search."""

    def check(setting: Setting) -> None:
        given = dict(options)
        if "assistant_model" in given:
            given["assistant_model"] = given["assistant_model"](setting)
        check_stock(setting, **{**GREEDY, **given})
        with setting.compressor.attached(setting.model) as run:
            output = setting.model.generate(**setting.inputs, **{**GREEDY, **given})
        answers = new_tokens(setting, output)
        for expected, tokens in zip(setting.next_logits(run, [t[:-1] for t in answers]), answers, strict=True):
            check_equal(tokens, without_placeholders(expected).argmax(-1).tolist(), "tokens")

    return check


def beam_search(setting: Setting) -> None:
    """Checks the scores of two beams, both returned."""
    options = {**GREEDY, "num_beams": 2, "num_return_sequences": 2, "output_scores": True}
    check_stock(setting, **options)
    with setting.compressor.attached(setting.model) as run:
        output = setting.model.generate(**setting.inputs, **options)
    new_tokens(setting, output)
    for row in range(setting.rows):

        def following(tokens: list[int], row: int = row) -> Tensor:
            everyone = [tokens if other == row else [] for other in range(setting.rows)]
            return setting.next_logits(run, everyone)[row][-1]

        expected = [score / NEW for score, _ in beams_by_hand(following, 2, NEW)]
        check_close(output.sequences_scores[2 * row : 2 * row + 2], torch.tensor(expected), f"scores of prompt {row}")


class _AddLogits:
    """A logits processor that runs the model on another prompt and adds half of its logits."""

    def __init__(self, model: Any, other: dict[str, Any]) -> None:  # noqa: ANN401 (a class per family)
        self.model, self.other = model, other

    def __call__(self, ids: Tensor, scores: Tensor) -> Tensor:
        return scores + 0.5 * self.model(**self.other).logits[:, -1]


def with_processor(prompt: str) -> Callable[[Setting], None]:
    """Returns the check of a mode in which a logits processor runs the model, on a "text" or on other "images"."""

    def check(setting: Setting) -> None:
        other = {"input_ids": torch.tensor([[5, 6, 7]] * setting.rows)}
        if prompt == "images":
            other = replace(setting, seed=1).inputs
        with torch.no_grad(), setting.compressor.attached(setting.model) if prompt == "images" else nullcontext():
            added = setting.model(**other).logits[:, -1]
        with setting.compressor.attached(setting.model) as run:
            options = {**GREEDY, "output_scores": True, "logits_processor": [_AddLogits(setting.model, other)]}
            output = setting.model.generate(**setting.inputs, **options)
        check_steps(setting, run, output)
        for row in range(setting.rows):
            logits = torch.stack([step[row] for step in output.logits])
            scores = torch.stack([step[row] for step in output.scores])
            finite = scores.isfinite()
            expected = 0.5 * added[row].expand(NEW, -1)
            check_close((scores - logits)[finite], expected[finite], f"logits added to prompt {row}")

    return check


def guided(setting: Setting) -> None:
    """Checks classifier-free guidance with a negative prompt of text."""
    negative = torch.arange(5, 50)[None].repeat(setting.rows, 1)
    options = {**GREEDY, "guidance_scale": 1.5, "negative_prompt_ids": negative, "output_scores": True}
    check_stock(setting, **options)
    with setting.compressor.attached(setting.model) as run:
        output = setting.model.generate(**setting.inputs, **options)
    check_steps(setting, run, output)
    answers = torch.tensor(new_tokens(setting, output))
    with torch.no_grad():
        against = setting.model(input_ids=torch.cat([negative, answers[:, :-1]], 1)).logits[:, -NEW:].log_softmax(-1)
    for row in range(setting.rows):
        given = torch.stack([step[row] for step in output.logits]).log_softmax(-1)
        scores = torch.stack([step[row] for step in output.scores])
        expected, finite = 1.5 * (given - against[row]) + against[row], scores.isfinite()
        check_close(scores[finite], expected[finite], f"scores of prompt {row}")


def streamed(setting: Setting) -> None:
    """Checks that a streamer receives the answer."""
    received: list[int] = []

    class Streamer:
        def put(self, value: Tensor) -> None:
            received.extend(value.flatten().tolist())

        def end(self) -> None: ...

    with setting.compressor.attached(setting.model) as run:
        output = setting.model.generate(**setting.inputs, **GREEDY, streamer=Streamer())
    check_steps(setting, run, output)
    check_equal(received[-NEW:], new_tokens(setting, output)[0], "streamed tokens")


def limited(setting: Setting) -> None:
    """Checks that limits of the total length count the full prompt."""
    length = setting.inputs["input_ids"].shape[1]
    limits = {"max_length": length + NEW, "min_length": length + NEW}
    options = {name: value for name, value in GREEDY.items() if "new_tokens" not in name}
    with setting.compressor.attached(setting.model) as run:
        output = setting.model.generate(**setting.inputs, **options, **limits)
    check_equal(output.sequences.shape[1], length + NEW, "length")
    check_steps(setting, run, output)


def next_turn(by: str) -> Callable[[Setting], None]:
    """Returns the check of more text after an answer, from the cache of `generate`, by "forward" or "generate"."""

    def check(setting: Setting) -> None:
        inputs = setting.inputs
        more = torch.tensor([MORE] * setting.rows)
        with torch.no_grad(), setting.compressor.attached(setting.model) as run:
            first = setting.model.generate(**inputs, **GREEDY)
            answers = new_tokens(setting, first)
            ids, cache = torch.cat([first.sequences, more], 1), first.past_key_values
            if by == "forward":
                new = ids[:, inputs["input_ids"].shape[1] + NEW - 1 :]
                output = setting.model(input_ids=new, past_key_values=cache)
                for row, expected in enumerate(setting.next_logits(run, [[*tokens, *MORE] for tokens in answers])):
                    check_close(output.logits[row], expected[-new.shape[1] :], f"logits of prompt {row}")
                return
            further = torch.ones(setting.rows, NEW + len(MORE), dtype=torch.long)
            mask = torch.cat([inputs["attention_mask"], further], 1)
            output = setting.model.generate(input_ids=ids, attention_mask=mask, past_key_values=cache, **GREEDY)
        tokens = [
            [*answer, *MORE, *row[ids.shape[1] :].tolist()]
            for answer, row in zip(answers, output.sequences, strict=True)
        ]
        for row, expected in enumerate(setting.next_logits(run, [one[:-1] for one in tokens])):
            found = torch.stack([step[row] for step in output.logits])
            check_close(found, expected[-NEW:], f"logits of prompt {row}")

    return check


def with_input(name: str) -> Callable[[Setting], None]:
    """Returns the check of a mode with another input than ids, pixels and a padding mask."""

    def check(setting: Setting) -> None:
        inputs, model = setting.inputs, setting.model
        ids, real = inputs["input_ids"], inputs["attention_mask"].bool()
        with torch.no_grad():
            if name == "inputs_embeds":
                inputs["inputs_embeds"] = model.get_input_embeddings()(inputs.pop("input_ids"))
            elif name == "position_ids":
                inputs["position_ids"] = (real.cumsum(1) - 1).clamp(min=0)
            elif name == "4-D mask":
                earlier = torch.ones(ids.shape[1], ids.shape[1], dtype=torch.bool).tril()
                inputs["attention_mask"] = (earlier & real[:, None, None]) | torch.eye(ids.shape[1], dtype=torch.bool)
            else:
                inputs = {key: inputs[key] for key in inputs if key not in setting.images[0]}
                inputs["mm_encoder_outputs"] = {"video" if setting.token == VIDEO else "image": setting.features}
            with setting.compressor.attached(model) as run:
                output = model.generate(**inputs, **GREEDY)
        check_steps(setting, run, output)

    return check


def other_model(setting: Setting) -> nn.Module:
    """Returns an assistant model."""
    return FAMILIES[setting.family]()
