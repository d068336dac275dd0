"""A compressed model as lmms-eval asks it; `docs/lmms_eval.md` shows how."""

import json
import os
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import replace
from functools import cached_property, partial
from typing import Any

import torch
from lmms_eval.api.instance import GenerationResult, Instance, TokenCounts
from lmms_eval.api.model import lmms
from lmms_eval.utils import Collator
from loguru import logger

from foveate.core.errors import FoveateError
from foveate.core.progress import bar, disable_bars
from foveate.core.values import whole
from foveate.evaluation.config import checkpoint_identity, code_hash
from foveate.evaluation.identity import identity_of
from foveate.lmms_eval.cache import known_to_cache
from foveate.lmms_eval.request import USED, Request, decoding, until
from foveate.methods.fitting import for_model
from foveate.models.loading.load import REFERENCE, load
from foveate.models.runtime.generation_config import greedily, told_unused

_NEW_TOKENS = 1024  # as lmms-eval's own models


class Foveate(lmms):
    """A checkpoint with a compressor attached; arguments have the names that lmms-eval's other models use.

    Prompts without an image go to the plain model.

    Args:
        pretrained: "reference" (shipped), a checkpoint folder, or a hub id.
        method: A name in `METHODS`, or "package.module:function".
        keep: The method's budget, as its authors count it: a number of patches, or a fraction of them.
        device: Where the model runs; None means a GPU, if there is one. Under `accelerate launch` each process takes
            its own.
        dtype: "float32", "bfloat16" or "float16"; None means float32 on the CPU, else bfloat16.
        attn_implementation: As transformers names it.
        revision: Branch, tag or commit of a hub id.
        companion: CLIP that the tower came from, for methods that compare patches with text.
        device_map: For models larger than one GPU, such as "auto".
        batch_size: Questions per batch.
        max_new_tokens: Longest answer, of tasks that say none.
        system_prompt: Text, or a file with it; empty means what the checkpoint's chat template has.
        options: Of the method, such as `layer=2`; layers that are not given are scaled to the model's depth.

    Raises:
        FoveateError: The model, the method, or one of its options is unknown or cannot work; the message says why.
    """

    is_simple = True

    def __init__(
        self,
        pretrained: str = REFERENCE,
        method: str = "full",
        keep: int | float | str | None = None,
        device: str | None = None,
        dtype: str | None = None,
        attn_implementation: str = "sdpa",
        revision: str = "main",
        companion: str | None = None,
        device_map: str | None = None,
        batch_size: int | str = 1,
        max_new_tokens: int = _NEW_TOKENS,
        system_prompt: str = "",
        max_batch_size: int | None = None,  # which lmms-eval gives to every model
        **options: Any,  # noqa: ANN401 (of any method)
    ) -> None:
        super().__init__()
        device = _own_device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        self.dtype = dtype or ("float32" if device.startswith("cpu") else "bfloat16")
        more = {"device_map": device_map} if device_map else {}
        self.loaded = load(pretrained, device, self.dtype, attn_implementation, companion, revision, **more)
        self.compressor = for_model(method, keep, options, self.loaded.adapter)
        with self.compressor.attached(self.loaded):
            pass  # a layer that the model lacks is better told now
        self.attention, self.max_new_tokens = attn_implementation, whole("max_new_tokens", max_new_tokens, 1)
        self.system_prompt = self._resolve_system_prompt(str(system_prompt))
        if not str(batch_size).isdecimal() or int(batch_size) < 1:
            raise FoveateError(f"batch_size={batch_size!r}: expected a number of questions; it is not found out here")
        self.batch_size = int(batch_size)
        if self.rank:
            disable_bars()
        logger.info(f"{pretrained}: {self.compressor}")
        if left_out := told_unused(self.loaded.model):
            logger.warning(left_out)

    @classmethod
    def create_from_arg_string(cls, arg_string: str, additional_config: dict | None = None) -> "Foveate":
        made = super().create_from_arg_string(arg_string, additional_config)
        known_to_cache(arg_string, made)
        return made

    @cached_property
    def identity(self) -> dict[str, str | int | None]:
        """Everything that can change an answer; in half precision batch size and device do, by rounding."""
        exact = self.dtype == "float32"
        return {
            "compressor": identity_of(self.compressor, "compressor"),
            "checkpoint": checkpoint_identity(self.loaded),
            "dtype": self.dtype,
            "attention": self.attention,
            "system_prompt": self.system_prompt,
            "max_new_tokens": self.max_new_tokens,
            "batch_size": None if exact else self.batch_size,
            "device": None if exact else self.device.type,
            "code": code_hash(),
        }

    def __str__(self) -> str:
        """By which lmms-eval's response cache tells models apart."""
        return f"foveate {json.dumps(self.identity, sort_keys=True)}"

    @property
    def device(self) -> torch.device:
        return self.loaded.device

    @property
    def tokenizer(self) -> Any:  # noqa: ANN401 (a class per family)
        return self.loaded.processor.tokenizer

    def generate_until(self, requests: list[Instance]) -> list[Any]:
        """Answers (`GenerationResult`), each with the tokens that a block was given of its prompt, on average."""
        for name in sorted({name for request in requests for name in request.arguments[1]} - set(USED)):
            logger.warning(f"generation_kwargs: {name} is not used by foveate")
        order = Collator([request.arguments for request in requests], lambda args: -len(args[0]), lambda a: a[1], True)
        answers: list[GenerationResult] = []
        with bar(len(requests), "request", "foveate") as shown:
            for batch in order.get_batched(self.batch_size):
                options = dict(batch[0][1])
                asked = [self._asked(context, visual, *where) for context, _, visual, *where in batch]
                answers += _apart(asked, partial(self._answers, options=options))
                shown.update(len(batch))
        return order.get_original(answers)

    def loglikelihood(self, requests: list[Instance]) -> list[tuple[float, bool]]:
        """Of each continuation and the end token the mean loss of a token, and whether it is the greedy answer.

        Loss, not log-likelihood: lmms-eval takes the smallest for the model's choice.

        Raises:
            FoveateError: A metric asks for the continuation without its question.
        """
        if any(len(request.arguments) != 6 for request in requests):
            raise FoveateError("acc_mutual_info asks for choices without question or image: use acc or acc_norm")
        losses: list[tuple[float, bool]] = []
        with bar(len(requests), "request", "foveate") as shown:
            for start in range(0, len(requests), self.batch_size):
                batch = [request.arguments for request in requests[start : start + self.batch_size]]
                asked = [self._asked(context, visual, *where) for context, _, visual, *where in batch]
                texts = [str(t(self._doc(*where)) if callable(t) else t).strip() for _, t, _, *where in batch]
                targets = [self.loaded.continued(one.written, t) for one, t in zip(asked, texts, strict=True)]
                asked = [replace(one, target=target) for one, target in zip(asked, targets, strict=True)]
                losses += _apart(asked, self._losses)
                shown.update(len(batch))
        return losses

    def generate_until_multi_round(self, requests: list[Instance]) -> list[str]:
        """Not supported.

        Raises:
            FoveateError: Always.
        """
        task = requests[0].arguments[-2] if requests else "this task"
        raise FoveateError(
            f"task {task!r} asks in several rounds (generate_until_multi_round), of which each may show new images; "
            "foveate answers single questions: choose tasks with output_type generate_until or multiple_choice"
        )

    def _doc(self, doc_id: int, task: str, split: str) -> Any:  # noqa: ANN401 (as the task has it)
        return self.task_dict[task][split][doc_id]

    def _asked(self, context: str, visual: Any, doc_id: int, task: str, split: str) -> Request:  # noqa: ANN401
        return Request.of(self.loaded, context, visual(self._doc(doc_id, task, split)), self.system_prompt)

    def _answers(self, asked: Sequence[Request], options: dict[str, Any]) -> list[GenerationResult]:
        said, given, _ = self._generate(asked, **decoding(options, self.max_new_tokens))
        texts = [until(text, options.get("until")) for text in self.loaded.text(said)]
        counts = [TokenCounts(round(before), len(tokens)) for before, tokens in zip(given, said, strict=True)]
        return [GenerationResult(text, count) for text, count in zip(texts, counts, strict=True)]

    def _losses(self, asked: Sequence[Request]) -> list[tuple[float, bool]]:
        """Teacher forcing by `generate`, so that no method sees the continuation when it chooses what to keep."""
        begun: list[int] = []

        def next_of_target(row: int, tokens: torch.Tensor) -> list[int]:
            begun.append(len(tokens))
            return [asked[row].target[min(len(tokens) - begun[0], len(asked[row].target) - 1)]]

        options = decoding({}, max(len(one.target) for one in asked))
        logits = self._generate(asked, prefix_allowed_tokens_fn=next_of_target, output_logits=True, **options)[2]
        results = []
        for row, one in enumerate(asked):
            rows = torch.stack([step[row] for step in logits[: len(one.target)]]).float()
            tokens = torch.tensor(one.target, device=rows.device)
            loss = torch.nn.functional.cross_entropy(rows, tokens)
            results.append((float(loss), bool((rows.argmax(1) == tokens).all())))
        return results

    @torch.inference_mode()
    def _generate(
        self,
        asked: Sequence[Request],
        **options: Any,  # noqa: ANN401 (of `generate`)
    ) -> tuple[list[list[int]], list[float], tuple[torch.Tensor, ...]]:
        """Of each prompt the answer's tokens and how many it was given; of each step the logits."""
        adapter = self.loaded.adapter
        inputs = self.loaded.inputs(*([getattr(one, name) for one in asked] for name in ("written", "images", "data")))
        ids, compressed = inputs["input_ids"], bool(asked[0].images)
        model: Any = self.loaded.model
        with greedily(model), self.compressor.attached(self.loaded) if compressed else nullcontext() as run:
            output = model.generate(
                **inputs,
                **options,
                pad_token_id=adapter.pad_token,
                return_dict_in_generate=True,
            )
        given = (inputs["attention_mask"].bool() & (ids != adapter.image_token)).sum(1).float()
        if run:
            given = given + run.tokens.equivalent.to(given.device)
        passed = {adapter.pad_token, *adapter.ends}
        said = [[t for t in row if t not in passed] for row in output.sequences[:, ids.shape[1] :].tolist()]
        return said, given.tolist(), output.logits or ()


def _apart(asked: Sequence[Request], run: Callable[[Sequence[Request]], list[Any]]) -> list[Any]:
    """Results in order, of prompts with equally many images together: a budget inside the model counts a prompt's."""
    results: list[Any] = [None] * len(asked)
    for count in sorted({len(one.images) for one in asked}):
        rows = [row for row, one in enumerate(asked) if len(one.images) == count]
        for row, result in zip(rows, run([asked[row] for row in rows]), strict=True):
            results[row] = result
    return results


def _own_device(device: str) -> str:
    """The GPU of this process, where several share the work."""
    return f"cuda:{os.environ['LOCAL_RANK']}" if device == "cuda" and "LOCAL_RANK" in os.environ else device
