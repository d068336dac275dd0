"""Batches for which memory does not suffice, by a limit on the real forward of the language model or the tower."""

from dataclasses import replace

import pytest
import torch

from foveate.compressors import Identity
from foveate.core.errors import MemoryExhausted, lacks_memory
from foveate.evaluation import EvalConfig, evaluate
from foveate.evaluation.names import REUSABLE
from foveate.evaluation.run import cached_load
from foveate.methods import fastv

MESSAGES = {
    "cuda": torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
    "cpu": RuntimeError("[enforce fail at alloc_cpu.cpp:127] DefaultCPUAllocator: can't allocate memory: 9 bytes"),
}


@pytest.fixture
def config(tiny, tmp_path):
    """Returns a configuration in which each question has a row of its own in the batch."""
    reuse = tuple(set(REUSABLE) - {"images"})
    return EvalConfig(Identity(), model=tiny, limit=12, batch_size=12, max_new_tokens=2, reuse=reuse, out=tmp_path)


@pytest.fixture
def limited(config):
    """A function that makes a part of the model refuse more rows than a number, and notes their counts."""
    loaded = cached_load(config.model, config.device, config.dtype)
    hooks = []

    def limit(rows, error=MESSAGES["cpu"], part="language_model"):
        seen = []

        def refuse(module, arguments, options):
            states = arguments[0] if arguments else options["hidden_states"]
            seen.append(len(states))
            if len(states) > rows:
                raise error

        block = next(m for name, m in loaded.model.named_modules() if part in name and name.endswith("layers.0"))
        hooks.append(block.register_forward_pre_hook(refuse, with_kwargs=True))
        return seen

    yield limit
    for hook in hooks:
        hook.remove()


def answers(folder):
    names = ("prediction", "kept", "tokens_per_block", "score")
    return {row["sample_id"]: [row[name] for name in names] for row in folder.read().to_pylist()}


@pytest.mark.parametrize("kind", MESSAGES)
@pytest.mark.parametrize("compressor", [Identity(), fastv(9, 2)], ids=["whole", "cut"])
def test_a_batch_without_memory_is_answered_in_halves_with_the_same_answers(config, limited, compressor, kind, capsys):
    config = replace(config, compressor=compressor)
    undisturbed = answers(evaluate(replace(config, out=config.out / "undisturbed")))
    capsys.readouterr()
    seen = limited(3, MESSAGES[kind])
    assert answers(evaluate(config)) == undisturbed
    assert max(seen) > 3
    lines = [line for line in capsys.readouterr().err.splitlines() if "memory" in line]
    assert lines[0].startswith(
        "memory does not suffice for 12 questions at once: now 6 are answered at once, and nothing"
    )
    assert len(lines) == 2


def test_images_without_memory_are_encoded_in_halves_with_the_same_answers(config, limited, capsys):
    config = replace(config, limit=140)
    undisturbed = answers(evaluate(replace(config, out=config.out / "undisturbed")))
    capsys.readouterr()
    seen = limited(5, part="vision_tower")
    assert answers(evaluate(config)) == undisturbed
    assert max(seen) == 16
    lines = [line for line in capsys.readouterr().err.splitlines() if "memory" in line]
    assert lines[0].startswith("memory does not suffice for 16 images at once: now 8 are encoded at once, and nothing")
    assert len(lines) == 2


def test_an_image_that_does_not_fit_alone_is_named(config, limited):
    limited(0, part="vision_tower")
    with pytest.raises(MemoryExhausted, match=r"image '.*' alone \(.*can't allocate"):
        evaluate(config)


def test_later_batches_begin_with_what_has_sufficed(config, limited, capsys):
    limited(3)
    evaluate(replace(config, batch_size=6))
    assert capsys.readouterr().err.count("memory does not suffice") == 1


def test_a_question_that_does_not_fit_alone_is_named_with_the_cures(config, limited):
    evaluate(replace(config, limit=1))  # compares tokens with stock `generate`, once per checkpoint
    limited(0)
    with pytest.raises(MemoryExhausted, match=r"question '.*' alone \(.*can't allocate.*--dtype bfloat16.*--device"):
        evaluate(config)


def test_other_errors_are_not_taken_for_a_lack_of_memory(config, limited):
    seen = limited(0, RuntimeError("shapes differ"))
    with pytest.raises(RuntimeError, match="shapes differ"):
        evaluate(config)
    assert len(seen) == 1
    assert lacks_memory(MemoryError()) and lacks_memory(RuntimeError("MPS backend out of memory (9 GB)"))
    assert lacks_memory(RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"))
    assert not lacks_memory(ValueError("out of memory"))
