"""A model with a compressor for lmms-eval.

See https://github.com/foveate/foveate/blob/main/docs/how_to/lmms_eval.md.
"""

import os
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from lmms_eval.api.instance import GenerationResult, Instance, TokenCounts
from lmms_eval.api.model import lmms
from lmms_eval.utils import Collator
from loguru import logger

from foveate.core.errors import FoveateError
from foveate.core.progress import bar, disable_bars
from foveate.core.values import whole
from foveate.lmms_eval.request import USED, Request, generate_options, until
from foveate.methods.fitting import for_model
from foveate.models.loading.load import REFERENCE, load
from foveate.models.runtime.generation_config import greedily, unused_warning

_NEW_TOKENS, _FRAMES = 1024, 32  # the defaults of lmms-eval's own models


class Foveate(lmms):
    """A checkpoint with a compressor attached; arguments have the names of lmms-eval's other models.

    Prompts without an image or a video are answered by the stock model.

    Args:
        pretrained: "reference" (shipped), a checkpoint folder, or a hub id.
        method: A name in `METHODS`, or "package.module:function" or "./file.py:function".
        keep: The method's budget as its authors define it: a number of patches, or a fraction of them.
        device: The device that the model runs on; None means a GPU if there is one. Under `accelerate launch` each
            process uses its own GPU.
        dtype: "float32", "bfloat16" or "float16"; None means float32 on the CPU and bfloat16 elsewhere.
        attn_implementation: The attention implementation's name in transformers.
        revision: Branch, tag or commit of a hub id.
        companion: The CLIP that the tower was taken from, for methods that compare patches with text.
        device_map: Device map for models larger than one GPU, such as "auto".
        batch_size: Number of questions per batch.
        max_new_tokens: Longest answer for tasks that set no limit.
        max_frames_num: Number of frames that are shown of each video, at equal distances; a shorter video shows all.
        system_prompt: Text, or a file with it; empty means that of the checkpoint's chat template.
        max_batch_size: Ignored; lmms-eval passes it to every model.
        options: Options of the method, such as `layer=2`; layers that are not given are scaled to the model's depth.

    Raises:
        FoveateError: The model, the method or an option is unknown or not supported.
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
        max_frames_num: int = _FRAMES,
        system_prompt: str = "",
        max_batch_size: int | None = None,
        **options: Any,  # noqa: ANN401 (of any method)
    ) -> None:
        super().__init__()
        device = _own_device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        dtype = dtype or ("float32" if device.startswith("cpu") else "bfloat16")
        more = {"device_map": device_map} if device_map else {}
        loaded = load(pretrained, device, dtype, attn_implementation, companion, revision, **more)
        self.loaded, self.compressor = for_model(method, keep, options, loaded.adapter).resized(loaded)
        with self.compressor.attached(self.loaded):
            pass  # raises now if the model lacks a layer
        self.max_new_tokens = whole("max_new_tokens", max_new_tokens, 1)
        self.max_frames_num = whole("max_frames_num", max_frames_num, 1)
        self.system_prompt = self._resolve_system_prompt(str(system_prompt))
        if not str(batch_size).isdecimal() or int(batch_size) < 1:
            raise FoveateError(
                f"batch_size={batch_size!r}: expected a number of questions from 1 up; automatic batch sizes are not "
                "supported"
            )
        self.batch_size = int(batch_size)
        if self.rank:
            disable_bars()
        logger.info(f"{pretrained}: {self.compressor}")
        if left_out := unused_warning(self.loaded.model):
            logger.warning(left_out)

    @property
    def device(self) -> torch.device:
        return self.loaded.device

    @property
    def tokenizer(self) -> Any:  # noqa: ANN401 (a class per family)
        return self.loaded.processor.tokenizer

    def generate_until(self, requests: list[Instance]) -> list[Any]:
        """Returns answers (`GenerationResult`) with the mean number of prompt tokens per block as input tokens."""
        for name in sorted({name for request in requests for name in request.arguments[1]} - set(USED)):
            logger.warning(f"generation_kwargs: {name} is not used by foveate")
        order = Collator([request.arguments for request in requests], lambda args: -len(args[0]), lambda a: a[1], True)
        answers: list[GenerationResult] = []
        with bar(len(requests), "request", "foveate") as shown:
            for batch in order.get_batched(self.batch_size):
                options = dict(batch[0][1])
                prompts = [self._request(context, visual, *source) for context, _, visual, *source in batch]
                answers += _by_shape(prompts, partial(self._answers, options=options))
                shown.update(len(batch))
        return order.get_original(answers)

    def loglikelihood(self, requests: list[Instance]) -> list[tuple[float, bool]]:
        """Returns for each continuation the mean loss per token, end token included, and whether it is greedy.

        The loss is returned instead of the log-likelihood, because lmms-eval takes the smallest value for the model's
        choice.

        Raises:
            FoveateError: A metric requests the continuation without its question.
        """
        if any(len(request.arguments) != 6 for request in requests):
            raise FoveateError("acc_mutual_info needs choices without question or image: use acc or acc_norm")
        losses: list[tuple[float, bool]] = []
        with bar(len(requests), "request", "foveate") as shown:
            for start in range(0, len(requests), self.batch_size):
                batch = [request.arguments for request in requests[start : start + self.batch_size]]
                prompts = [self._request(context, visual, *source) for context, _, visual, *source in batch]
                texts = [str(t(self._doc(*source)) if callable(t) else t).strip() for _, t, _, *source in batch]
                targets = [self.loaded.answer_tokens(one.prompt, t) for one, t in zip(prompts, texts, strict=True)]
                prompts = [replace(one, target=target) for one, target in zip(prompts, targets, strict=True)]
                losses += _by_shape(prompts, self._losses)
                shown.update(len(batch))
        return losses

    def generate_until_multi_round(self, requests: list[Instance]) -> list[str]:
        """Raises an error, because questions in several rounds are not supported.

        Raises:
            FoveateError: Always.
        """
        task = requests[0].arguments[-2] if requests else "this task"
        raise FoveateError(
            f"task {task!r} has several rounds per question (generate_until_multi_round), which is not supported: "
            "choose tasks with output_type generate_until or multiple_choice"
        )

    def _doc(self, doc_id: int, task: str, split: str) -> Any:  # noqa: ANN401 (as the task has it)
        return self.task_dict[task][split][doc_id]

    def _request(self, context: str, visual: Any, doc_id: int, task: str, split: str) -> Request:  # noqa: ANN401
        visuals = visual(self._doc(doc_id, task, split)) or ()
        return Request.of(self.loaded, context, visuals, self.system_prompt, self.max_frames_num)

    def _answers(self, requests: Sequence[Request], options: dict[str, Any]) -> list[GenerationResult]:
        answers, given, _ = self._generate(requests, **generate_options(options, self.max_new_tokens))
        texts = [until(text, options.get("until")) for text in self.loaded.text(answers)]
        counts = [TokenCounts(round(before), len(tokens)) for before, tokens in zip(given, answers, strict=True)]
        return [GenerationResult(text, count) for text, count in zip(texts, counts, strict=True)]

    def _losses(self, requests: Sequence[Request]) -> list[tuple[float, bool]]:
        """Forces the continuations by `generate`, so that methods choose the kept patches without reading them."""
        prompt_lengths: list[int] = []

        def next_of_target(row: int, tokens: torch.Tensor) -> list[int]:
            prompt_lengths.append(len(tokens))
            target = requests[row].target
            return [target[min(len(tokens) - prompt_lengths[0], len(target) - 1)]]

        options = generate_options({}, max(len(one.target) for one in requests))
        logits = self._generate(requests, prefix_allowed_tokens_fn=next_of_target, output_logits=True, **options)[2]
        results = []
        for row, one in enumerate(requests):
            rows = torch.stack([step[row] for step in logits[: len(one.target)]]).float()
            tokens = torch.tensor(one.target, device=rows.device)
            loss = torch.nn.functional.cross_entropy(rows, tokens)
            results.append((float(loss), bool((rows.argmax(1) == tokens).all())))
        return results

    @torch.inference_mode()
    def _generate(
        self,
        requests: Sequence[Request],
        **options: Any,  # noqa: ANN401 (of `generate`)
    ) -> tuple[list[list[int]], list[float], tuple[torch.Tensor, ...]]:
        """Returns the tokens of each answer, the prompt tokens per block on average, and the logits of each step."""
        adapter = self.loaded.adapter
        inputs = self.loaded.inputs(
            [one.prompt for one in requests],
            [one.images for one in requests],
            [one.data for one in requests],
            [one.videos for one in requests],
        )
        ids, compressed = inputs["input_ids"], bool(requests[0].images or requests[0].videos)
        model: Any = self.loaded.model
        with greedily(model), self.compressor.attached(self.loaded) if compressed else nullcontext() as result:
            output = model.generate(
                **inputs,
                **options,
                pad_token_id=adapter.pad_token,
                return_dict_in_generate=True,
            )
        given = (inputs["attention_mask"].bool() & ~adapter.is_placeholder(ids)).sum(1).float()
        if result:
            given = given + result.tokens.equivalent.to(given.device)
        removed = {adapter.pad_token, *adapter.ends}
        answers = [[t for t in row if t not in removed] for row in output.sequences[:, ids.shape[1] :].tolist()]
        return answers, given.tolist(), output.logits or ()


def _by_shape(requests: Sequence[Request], run: Callable[[Sequence[Request]], list[Any]]) -> list[Any]:
    """Runs requests with equally many images, and videos of equally many frames, together, as cuts require.

    Returns:
        The results in order.
    """
    results: list[Any] = [None] * len(requests)
    for shape in sorted({one.shape for one in requests}):
        rows = [row for row, one in enumerate(requests) if one.shape == shape]
        for row, result in zip(rows, run([requests[row] for row in rows]), strict=True):
            results[row] = result
    return results


def _own_device(device: str) -> str:
    """Returns the GPU of this process under `accelerate launch`, otherwise `device`."""
    return f"cuda:{os.environ['LOCAL_RANK']}" if device == "cuda" and "LOCAL_RANK" in os.environ else device
