"""Modes of `generate`."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from foveate.testing.decoding.setting import GREEDY, MORE, NEW, Setting, close, said_by, same, steps, stock, words
from foveate.testing.families import FAMILIES, VIDEO


def beams_by_hand(following: Callable[[list[int]], Tensor], beams: int, steps: int) -> list[tuple[float, list[int]]]:
    """Returns the best sequences of a beam search without placeholders, with the sums of their log-probabilities.

    Args:
        following: Logits of the token that follows some tokens.
        beams: How many are kept.
        steps: How many tokens each gets.
    """
    best: list[tuple[float, list[int]]] = [(0.0, [])]
    for _ in range(steps):
        found = []
        for score, said in best:
            log = words(following(said).log_softmax(-1))
            found += [(score + float(log[token]), [*said, token]) for token in log.topk(beams).indices.tolist()]
        best = sorted(found, key=lambda beam: -beam[0])[:beams]
    return best


def generating(**options: Any) -> Callable[[Setting], None]:  # noqa: ANN401
    """A mode of `generate` whose logits are those of the model."""

    def check(setting: Setting) -> None:
        alone = {name: value for name, value in options.items() if name != "cache_implementation"}
        stock(setting, **{**GREEDY, **alone})
        with setting.compressor.attached(setting.model) as run:
            output = setting.model.generate(**setting.inputs, **{**GREEDY, **options})
        steps(setting, run, output, options.get("num_return_sequences", 1))

    return check


def guessing(**options: Any) -> Callable[[Setting], None]:  # noqa: ANN401
    """A mode that must give the tokens of greedy search."""

    def check(setting: Setting) -> None:
        given = dict(options)
        if "assistant_model" in given:
            given["assistant_model"] = given["assistant_model"](setting)
        stock(setting, **{**GREEDY, **given})
        with setting.compressor.attached(setting.model) as run:
            output = setting.model.generate(**setting.inputs, **{**GREEDY, **given})
        said = said_by(setting, output)
        for wanted, tokens in zip(setting.next_logits(run, [t[:-1] for t in said]), said, strict=True):
            same(tokens, words(wanted).argmax(-1).tolist(), "tokens")

    return check


def beam_search(setting: Setting) -> None:
    """Two beams, both returned."""
    options = {**GREEDY, "num_beams": 2, "num_return_sequences": 2, "output_scores": True}
    stock(setting, **options)
    with setting.compressor.attached(setting.model) as run:
        output = setting.model.generate(**setting.inputs, **options)
    said_by(setting, output)
    for row in range(setting.rows):

        def following(said: list[int], row: int = row) -> Tensor:
            everyone = [said if other == row else [] for other in range(setting.rows)]
            return setting.next_logits(run, everyone)[row][-1]

        wanted = [score / NEW for score, _ in beams_by_hand(following, 2, NEW)]
        close(output.sequences_scores[2 * row : 2 * row + 2], torch.tensor(wanted), f"scores of prompt {row}")


class _Adding:
    """A logits processor that runs the model on something else and adds half of what it says."""

    def __init__(self, model: Any, other: dict[str, Any]) -> None:  # noqa: ANN401 (a class per family)
        self.model, self.other = model, other

    def __call__(self, ids: Tensor, scores: Tensor) -> Tensor:
        return scores + 0.5 * self.model(**self.other).logits[:, -1]


def adding(what: str) -> Callable[[Setting], None]:
    """A mode in which a logits processor runs the model, on a text or on other images."""

    def check(setting: Setting) -> None:
        other = {"input_ids": torch.tensor([[5, 6, 7]] * setting.rows)}
        if what == "images":
            other = Setting(setting.family, setting.place, setting.truth, setting.rows, seed=1).inputs
        with torch.no_grad():
            if what == "images":
                with setting.compressor.attached(setting.model):
                    added = setting.model(**other).logits[:, -1]
            else:
                added = setting.model(**other).logits[:, -1]
        with setting.compressor.attached(setting.model) as run:
            options = {**GREEDY, "output_scores": True, "logits_processor": [_Adding(setting.model, other)]}
            output = setting.model.generate(**setting.inputs, **options)
        steps(setting, run, output)
        for row in range(setting.rows):
            logits = torch.stack([step[row] for step in output.logits])
            scores = torch.stack([step[row] for step in output.scores])
            there = scores.isfinite()
            wanted = 0.5 * added[row].expand(NEW, -1)
            close((scores - logits)[there], wanted[there], f"what is added to prompt {row}")

    return check


def guided(setting: Setting) -> None:
    """Classifier-free guidance with a negative prompt of text."""
    negative = torch.arange(5, 50)[None].repeat(setting.rows, 1)
    options = {**GREEDY, "guidance_scale": 1.5, "negative_prompt_ids": negative, "output_scores": True}
    stock(setting, **options)
    with setting.compressor.attached(setting.model) as run:
        output = setting.model.generate(**setting.inputs, **options)
    steps(setting, run, output)
    said = torch.tensor(said_by(setting, output))
    with torch.no_grad():
        against = setting.model(input_ids=torch.cat([negative, said[:, :-1]], 1)).logits[:, -NEW:].log_softmax(-1)
    for row in range(setting.rows):
        given = torch.stack([step[row] for step in output.logits]).log_softmax(-1)
        found = torch.stack([step[row] for step in output.scores])
        wanted, there = 1.5 * (given - against[row]) + against[row], found.isfinite()
        close(found[there], wanted[there], f"scores of prompt {row}")


def streamed(setting: Setting) -> None:
    """A streamer hears the answer."""
    heard: list[int] = []

    class Streamer:
        def put(self, value: Tensor) -> None:
            heard.extend(value.flatten().tolist())

        def end(self) -> None: ...

    with setting.compressor.attached(setting.model) as run:
        output = setting.model.generate(**setting.inputs, **GREEDY, streamer=Streamer())
    steps(setting, run, output)
    same(heard[-NEW:], said_by(setting, output)[0], "streamed tokens")


def limited(setting: Setting) -> None:
    """Limits of the whole length count the prompt as it was given."""
    length = setting.inputs["input_ids"].shape[1]
    limits = {"max_length": length + NEW, "min_length": length + NEW}
    options = {name: value for name, value in GREEDY.items() if "new_tokens" not in name}
    with setting.compressor.attached(setting.model) as run:
        output = setting.model.generate(**setting.inputs, **options, **limits)
    same(output.sequences.shape[1], length + NEW, "length")
    steps(setting, run, output)


def next_turn(by: str) -> Callable[[Setting], None]:
    """More text behind an answer, from the cache of `generate`."""

    def check(setting: Setting) -> None:
        inputs = setting.inputs
        more = torch.tensor([MORE] * setting.rows)
        with torch.no_grad(), setting.compressor.attached(setting.model) as run:
            first = setting.model.generate(**inputs, **GREEDY)
            said = said_by(setting, first)
            ids, cache = torch.cat([first.sequences, more], 1), first.past_key_values
            if by == "forward":
                new = ids[:, inputs["input_ids"].shape[1] + NEW - 1 :]
                output = setting.model(input_ids=new, past_key_values=cache)
                for row, wanted in enumerate(setting.next_logits(run, [[*tokens, *MORE] for tokens in said])):
                    close(output.logits[row], wanted[-new.shape[1] :], f"logits of prompt {row}")
                return
            seen = torch.ones(setting.rows, NEW + len(MORE), dtype=torch.long)
            mask = torch.cat([inputs["attention_mask"], seen], 1)
            wanted_by = setting.next_logits
            output = setting.model.generate(input_ids=ids, attention_mask=mask, past_key_values=cache, **GREEDY)
        said = [
            [*tokens, *MORE, *row[ids.shape[1] :].tolist()] for tokens, row in zip(said, output.sequences, strict=True)
        ]
        for row, wanted in enumerate(wanted_by(run, [tokens[:-1] for tokens in said])):
            close(torch.stack([step[row] for step in output.logits]), wanted[-NEW:], f"logits of prompt {row}")

    return check


def giving(name: str) -> Callable[[Setting], None]:
    """Something else than ids, pixels and a mask of padding is given."""

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
        steps(setting, run, output)

    return check


def other_model(setting: Setting) -> nn.Module:
    """Returns an assistant."""
    return FAMILIES[setting.family]()
