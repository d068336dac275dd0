"""The modes of `forward`, and training."""

from collections.abc import Callable
from copy import deepcopy
from typing import Any

import torch
from torch import Tensor, nn
from transformers import StaticCache

from foveate.compressors.result import Result
from foveate.testing.decoding.setting import (
    GREEDY,
    MORE,
    NEW,
    QUESTIONS,
    NotRunnable,
    Setting,
    check_close,
    check_equal,
    check_steps,
    without_placeholders,
)


def loop(static: bool = False) -> Callable[[Setting], None]:
    """Returns the check of decoding by `forward`, one token at a time."""

    def check(setting: Setting) -> None:
        model, answers = setting.model, [[] for _ in range(setting.rows)]
        mask = setting.inputs["attention_mask"]
        room = mask.shape[1] + NEW
        given = {"past_key_values": StaticCache(config=model.config.text_config, max_cache_len=room)} if static else {}
        with torch.no_grad(), setting.compressor.attached(model) as run:
            output = model(**setting.inputs, **given, use_cache=True)
            for _ in range(NEW):
                new = without_placeholders(output.logits[:, -1]).argmax(1, keepdim=True)
                mask = torch.cat([mask, torch.ones_like(new)], 1)
                output = model(input_ids=new, past_key_values=output.past_key_values, attention_mask=mask)
                for row, tokens in enumerate(answers):
                    tokens += new[row].tolist()
                for row, expected in enumerate(setting.next_logits(run, answers)):
                    check_close(output.logits[row], expected[-1:], f"logits of prompt {row}")

    return check


def continued(cache_is: str) -> Callable[[Setting], None]:
    """Returns the check of more text by `forward` from the cache of `forward`, "copied" or "cropped"."""

    def check(setting: Setting) -> None:
        model, more = setting.model, torch.tensor([MORE] * setting.rows)
        with torch.no_grad(), setting.compressor.attached(model) as run:
            cache = model(**setting.inputs, use_cache=True).past_key_values
            if cache_is == "copied":
                cache = deepcopy(cache)
            else:
                model(input_ids=more.flip(1), past_key_values=cache)
                try:
                    cache.crop(-more.shape[1])
                except RuntimeError as error:  # a full sliding window
                    raise NotRunnable(str(error)) from error
            output = model(input_ids=more, past_key_values=cache)
            for row, expected in enumerate(setting.next_logits(run, more.tolist())):
                check_close(output.logits[row], expected[-more.shape[1] :], f"logits of prompt {row}")

    return check


def _check_all(setting: Setting, run: Result, logits: Tensor) -> None:
    """Checks the logits of `forward` at every remaining token."""
    for row, expected in enumerate(setting.reference(setting, run, [[] for _ in range(setting.rows)])):
        check_close(logits[row, logits.shape[1] - len(expected) :], expected, f"logits of prompt {row}")


def forward(**options: Any) -> Callable[[Setting], None]:  # noqa: ANN401
    """Returns the check of one pass over the prompts."""

    def check(setting: Setting) -> None:
        with torch.no_grad(), setting.compressor.attached(setting.model) as run:
            logits = setting.model(**setting.inputs, **options).logits
            if "logits_to_keep" in options:
                no_answers = [[] for _ in range(setting.rows)]
                check_close(logits[:, 0], torch.cat(setting.next_logits(run, no_answers)), "logits")
            else:
                _check_all(setting, run, logits)

    return check


def compiled(setting: Setting) -> None:
    """Checks a compiled pass."""
    with torch.no_grad(), setting.compressor.attached(setting.model) as run:
        try:
            logits = torch.compile(setting.model.forward, backend="eager")(**setting.inputs).logits
            _check_all(setting, run, logits)
        finally:
            torch._dynamo.reset()


def attentions(setting: Setting) -> None:
    """Checks a pass that returns attentions."""
    setting.model.set_attn_implementation("eager")
    with torch.no_grad(), setting.compressor.attached(setting.model) as run:
        output = setting.model(**setting.inputs, output_attentions=True)
        _check_all(setting, run, output.logits)
    for rows in output.attentions:
        last = rows[0, :, -1]  # of the first prompt's last token, which is not padding
        check_close(last.sum(-1), torch.ones(len(last)), "sums of attention")


def attentions_of_generate(setting: Setting) -> None:
    """Checks the attentions of every step of `generate`."""
    setting.model.set_attn_implementation("eager")
    with setting.compressor.attached(setting.model) as run:
        output = setting.model.generate(**setting.inputs, **GREEDY, output_attentions=True)
    check_steps(setting, run, output)
    for step in output.attentions:
        check_close(step[-1][0, :, -1].sum(-1), torch.ones(step[-1].shape[1]), "sums of attention")


def hidden_states(setting: Setting) -> None:
    """Checks that the last hidden states that a pass returns lead to its logits."""
    model = setting.model
    with torch.no_grad(), setting.compressor.attached(model) as run:
        output = model(**setting.inputs, output_hidden_states=True)
        _check_all(setting, run, model.lm_head(output.hidden_states[-1]))


def _labels(setting: Setting) -> Tensor:
    """Returns labels for the text after the images."""
    labels = torch.full_like(setting.inputs["input_ids"], -100)
    for row in range(setting.rows):
        question = torch.tensor(QUESTIONS[row])
        labels[row, -len(question) :] = question
    return labels


def _reference_loss(setting: Setting, run: Result) -> Tensor:
    rows = setting.reference(setting, run, [[] for _ in range(setting.rows)])
    logits = [row[-len(question) - 1 : -1] for row, question in zip(rows, QUESTIONS, strict=False)]
    targets = [torch.tensor(question) for question in QUESTIONS[: setting.rows]]
    return nn.functional.cross_entropy(torch.cat(logits), torch.cat(targets))


def loss(setting: Setting) -> None:
    """Checks the loss of the text after the images."""
    with torch.no_grad(), setting.compressor.attached(setting.model) as run:
        found = setting.model(**setting.inputs, labels=_labels(setting)).loss
        check_close(found, _reference_loss(setting, run), "loss")


def training(checkpointed: bool = False, labelled: bool = True) -> Callable[[Setting], None]:
    """Returns the check of the gradients of all parameters, of the loss if `labelled`, otherwise of logits."""

    def check(setting: Setting) -> None:
        model = setting.model.train()
        if checkpointed:
            model.gradient_checkpointing_enable()
        with setting.compressor.attached(model) as run:
            if labelled:
                output = model(**setting.inputs, labels=_labels(setting))
                output.loss.backward()
            else:
                model(**setting.inputs).logits[:, -1].logsumexp(-1).sum().backward()
        found = {name: weight.grad for name, weight in model.named_parameters()}
        model.zero_grad()
        model.eval()  # switches checkpointing off
        if labelled:
            _reference_loss(setting, run).backward()
        else:
            rows = setting.reference(setting, run, [[] for _ in range(setting.rows)])
            torch.stack([row[-1].logsumexp(-1) for row in rows]).sum().backward()
        expected = {name: weight.grad for name, weight in model.named_parameters()}
        largest = max(float(gradient.abs().max()) for gradient in expected.values() if gradient is not None)
        for name, gradient in expected.items():
            if gradient is None or found[name] is None:
                check_equal(found[name] is None, gradient is None, f"missing gradient of {name}")
            elif float(gradient.abs().max()) > 1e-5 * largest:  # smaller ones are rounding, such as of keys' biases
                check_close(found[name], gradient, f"gradient of {name}")

    return check
