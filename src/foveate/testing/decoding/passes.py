"""Modes of `forward`, and training."""

from collections.abc import Callable
from copy import deepcopy
from typing import Any

import torch
from torch import Tensor, nn
from transformers import StaticCache

from foveate.compressors.result import Result
from foveate.testing.decoding.setting import BEHIND, GREEDY, MORE, NEW, Setting, close, same, steps, words


def loop(static: bool = False) -> Callable[[Setting], None]:
    """One token at a time by `forward`."""

    def check(setting: Setting) -> None:
        model, said = setting.model, [[] for _ in range(setting.rows)]
        mask = setting.inputs["attention_mask"]
        room = mask.shape[1] + NEW
        given = {"past_key_values": StaticCache(config=model.config.text_config, max_cache_len=room)} if static else {}
        with torch.no_grad(), setting.compressor.attached(model) as run:
            output = model(**setting.inputs, **given, use_cache=True)
            for _ in range(NEW):
                new = words(output.logits[:, -1]).argmax(1, keepdim=True)
                mask = torch.cat([mask, torch.ones_like(new)], 1)
                output = model(input_ids=new, past_key_values=output.past_key_values, attention_mask=mask)
                for row, tokens in enumerate(said):
                    tokens += new[row].tolist()
                for row, wanted in enumerate(setting.next_logits(run, said)):
                    close(output.logits[row], wanted[-1:], f"logits of prompt {row}")

    return check


def going_on(how: str) -> Callable[[Setting], None]:
    """More text by `forward` from the cache of `forward`, which was copied or cropped."""

    def check(setting: Setting) -> None:
        model, more = setting.model, torch.tensor([MORE] * setting.rows)
        with torch.no_grad(), setting.compressor.attached(model) as run:
            cache = model(**setting.inputs, use_cache=True).past_key_values
            if how == "copied":
                cache = deepcopy(cache)
            else:
                model(input_ids=more.flip(1), past_key_values=cache)
                cache.crop(-more.shape[1])
            output = model(input_ids=more, past_key_values=cache)
            for row, wanted in enumerate(setting.next_logits(run, more.tolist())):
                close(output.logits[row], wanted[-more.shape[1] :], f"logits of prompt {row}")

    return check


def _everywhere(setting: Setting, run: Result, logits: Tensor) -> None:
    """Compares the logits of `forward` at every token that remains."""
    for row, wanted in enumerate(setting.truth(setting, run, [[] for _ in range(setting.rows)])):
        close(logits[row, logits.shape[1] - len(wanted) :], wanted, f"logits of prompt {row}")


def forward(**options: Any) -> Callable[[Setting], None]:  # noqa: ANN401
    """One pass over the prompts."""

    def check(setting: Setting) -> None:
        with torch.no_grad(), setting.compressor.attached(setting.model) as run:
            logits = setting.model(**setting.inputs, **options).logits
            if "logits_to_keep" in options:
                said = [[] for _ in range(setting.rows)]
                close(logits[:, 0], torch.cat(setting.next_logits(run, said)), "logits")
            else:
                _everywhere(setting, run, logits)

    return check


def compiled(setting: Setting) -> None:
    """A pass that was compiled."""
    with torch.no_grad(), setting.compressor.attached(setting.model) as run:
        try:
            logits = torch.compile(setting.model.forward, backend="eager")(**setting.inputs).logits
            _everywhere(setting, run, logits)
        finally:
            torch._dynamo.reset()


def attentions(setting: Setting) -> None:
    """A pass that returns attentions."""
    setting.model.set_attn_implementation("eager")
    with torch.no_grad(), setting.compressor.attached(setting.model) as run:
        output = setting.model(**setting.inputs, output_attentions=True)
        _everywhere(setting, run, output.logits)
    for rows in output.attentions:
        real = rows[0, :, -1]  # the last token of the first prompt is no padding
        close(real.sum(-1), torch.ones(len(real)), "sums of attention")


def attentions_of_generate(setting: Setting) -> None:
    """Attentions of every step."""
    setting.model.set_attn_implementation("eager")
    with setting.compressor.attached(setting.model) as run:
        output = setting.model.generate(**setting.inputs, **GREEDY, output_attentions=True)
    steps(setting, run, output)
    for step in output.attentions:
        close(step[-1][0, :, -1].sum(-1), torch.ones(step[-1].shape[1]), "sums of attention")


def hidden_states(setting: Setting) -> None:
    """A pass that returns hidden states, of which the last give the logits."""
    model = setting.model
    with torch.no_grad(), setting.compressor.attached(model) as run:
        output = model(**setting.inputs, output_hidden_states=True)
        _everywhere(setting, run, model.lm_head(output.hidden_states[-1]))


def _labels(setting: Setting) -> Tensor:
    """The text behind the images."""
    labels = torch.full_like(setting.inputs["input_ids"], -100)
    for row in range(setting.rows):
        behind = torch.tensor(BEHIND[row])
        labels[row, -len(behind) :] = behind
    return labels


def _true_loss(setting: Setting, run: Result) -> Tensor:
    rows = setting.truth(setting, run, [[] for _ in range(setting.rows)])
    logits = [row[-len(behind) - 1 : -1] for row, behind in zip(rows, BEHIND, strict=False)]
    targets = [torch.tensor(behind) for behind in BEHIND[: setting.rows]]
    return nn.functional.cross_entropy(torch.cat(logits), torch.cat(targets))


def loss(setting: Setting) -> None:
    """The loss of the text behind the images."""
    with torch.no_grad(), setting.compressor.attached(setting.model) as run:
        found = setting.model(**setting.inputs, labels=_labels(setting)).loss
        close(found, _true_loss(setting, run), "loss")


def training(checkpointed: bool = False, labelled: bool = True) -> Callable[[Setting], None]:
    """Gradients of all parameters, of the loss or of logits."""

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
        model.eval()  # in which nothing is checkpointed
        if labelled:
            _true_loss(setting, run).backward()
        else:
            rows = setting.truth(setting, run, [[] for _ in range(setting.rows)])
            torch.stack([row[-1].logsumexp(-1) for row in rows]).sum().backward()
        wanted = {name: weight.grad for name, weight in model.named_parameters()}
        largest = max(float(gradient.abs().max()) for gradient in wanted.values() if gradient is not None)
        for name, gradient in wanted.items():
            if gradient is None or found[name] is None:
                same(found[name] is None, gradient is None, f"whether {name} has no gradient")
            elif float(gradient.abs().max()) > 1e-5 * largest:  # what is less is rounding, as of the biases of keys
                close(found[name], gradient, f"gradient of {name}")

    return check
