"""Attention corrected for position bias or attention sinks, evaluated as compressors."""

import json
from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from foveate.compressors import Compressor, DecoderCompressor, VisionCompressor
from foveate.compressors.base import checked_cuts, compressed_by
from foveate.core.budget import Keep
from foveate.core.contracts import ImageBatch
from foveate.core.errors import DataError, OptionError
from foveate.core.layers import LayersFrom
from foveate.core.progress import bar
from foveate.core.storage import checksummed, intact, quarantine
from foveate.data.names import GENERATED, parsed
from foveate.data.sample import VQASample
from foveate.evaluation import EvalConfig, evaluate
from foveate.evaluation.answering import encodings_of
from foveate.evaluation.config import checkpoint_identity, run_id
from foveate.evaluation.encodings import Encodings
from foveate.evaluation.evidence import evidence_of
from foveate.evaluation.module import images_of_questions
from foveate.evaluation.prompts import Prompted
from foveate.evaluation.run import cached_load, data_of
from foveate.methods.fitting import options_on, with_fallbacks
from foveate.methods.recipes.after_tower import vtc_cls
from foveate.methods.recipes.in_language_model import fastv
from foveate.models.backbone.adapter import Adapter
from foveate.models.loading.load import LoadedModel
from foveate.models.runtime.generation import Decoding, answer_each
from foveate.scorers import ClsEnsemble, Debiased, PromptAttention, WithoutSinks

PLAIN, DEBIASED, WITHOUT_SINKS = "as it is", "less its mean over images", "without sinks"


class Corrected(NamedTuple):
    """An evaluated compressor.

    Attributes:
        attention: Name of the attention whose scores choose the patches.
        correction: Name of the correction.
        run: Name of the folder of its records.
    """

    attention: str
    correction: str
    run: str


def attentions(keep: Keep, adapter: Adapter) -> dict[str, VisionCompressor | DecoderCompressor]:
    """Returns the compressors that are corrected, by name: two sums of [CLS] layers, and FastV with two queries.

    Args:
        keep: The budget.
        adapter: The model's adapter, to whose depths the authors' layers are scaled.
    """
    deep, cut = vtc_cls(keep, **options_on(vtc_cls, adapter)), fastv(keep, **options_on(fastv, adapter))
    assert isinstance(deep, VisionCompressor) and isinstance(cut, DecoderCompressor)
    assert isinstance(cut.scorer, PromptAttention)
    return {
        "[CLS], all layers": replace(deep, scorer=ClsEnsemble(LayersFrom(0))),
        "[CLS], VTC-CLS's layers": deep,
        "last prompt token": cut,
        "question tokens": replace(cut, scorer=replace(cut.scorer, query="mean")),
    }


def split_of_means(config: EvalConfig, given: str | None) -> str | None:
    """Returns the split whose images give the mean scores.

    Args:
        config: The evaluation.
        given: A split, or None for the default: another split of generated data, and None for other data, which may
            have no other split.

    Raises:
        OptionError: The split is the one that is evaluated.
    """
    if given == config.split:
        raise OptionError(
            f"mean_split={given!r} is the split that is evaluated: a mean over the same images would leak them; choose "
            "another split"
        )
    if given is None and parsed(config.data)[0] in GENERATED:
        return next(split for split in ("search", "test") if split != config.split)
    return given


def evaluate_corrections(config: EvalConfig, keep: Keep, mean_split: str) -> list[Corrected]:
    """Evaluates each attention uncorrected, minus its mean over the images of another split, and without sinks.

    Args:
        config: The evaluation; its compressor is replaced.
        keep: Budget of every compressor.
        mean_split: Split whose images give the means; its limit is that of `config`.

    Raises:
        FoveateError: The model, data or budget cannot be used; the message says why.
    """
    adapter = cached_load(config.model, config.device, config.dtype).adapter
    found = []
    for name, plain in attentions(keep, adapter).items():
        mean = mean_scores(replace(config, compressor=with_fallbacks(plain, adapter.tower), split=mean_split))
        scorers = {
            PLAIN: plain.scorer,
            DEBIASED: Debiased(plain.scorer, mean),
            WITHOUT_SINKS: WithoutSinks(plain.scorer),
        }
        for correction, scorer in scorers.items():
            compressor = with_fallbacks(replace(plain, scorer=scorer), adapter.tower)
            run = evaluate(replace(config, compressor=compressor), shared=True).folder.name
            found.append(Corrected(name, correction, run))
    return found


def mean_scores(config: EvalConfig) -> tuple[float, ...]:
    """Returns the mean score of each patch over all questions of a configuration.

    For a `DecoderCompressor` these are the scores at its last cut, before which it must not have dropped any visual
    token. The mean is stored in `<out>/means`, and reused for the same configuration.

    Args:
        config: The evaluation.

    Raises:
        FoveateError: A question cannot be asked, or the model cannot compute what the compressor reads.
    """
    loaded = cached_load(config.model, config.device, config.dtype)
    config = config.on(loaded)
    samples, questions = data_of(config)
    stem, folder = run_id(config.identity(checkpoint_identity(loaded), questions)), config.out / "means"
    for found in folder.glob(f"{stem}.????????????????.json"):  # the checksum
        if intact(found):
            return tuple(json.loads(found.read_text(encoding="utf-8")))
        quarantine(found)
    if others := [sample.id for sample in samples if len(sample.sources) != 1]:
        raise DataError(
            f"{len(others)} questions of {config.data!r} are about no image or several, the first is {others[0]!r}: "
            "mean scores are over questions about one image only: remove the others from the data"
        )
    mean = _mean_scores(config, loaded, samples, encodings_of(config, loaded, samples, questions))
    with checksummed(folder, stem, ".json") as path:
        path.write_text(json.dumps(mean), encoding="utf-8")
    return mean


@torch.inference_mode()
def _mean_scores(
    config: EvalConfig, loaded: LoadedModel, samples: Sequence[VQASample], encodings: Encodings
) -> tuple[float, ...]:
    total = torch.zeros(())
    with bar(len(samples), "question", "mean scores") as progress:
        for start in range(0, len(samples), config.per_batch):
            batch = samples[start : start + config.per_batch]
            arranged = [encodings.arrangements[sample.image_id] for sample in batch]
            prompts = [
                Prompted.of(loaded, sample, [image], config.max_new_tokens).prompt
                for sample, image in zip(batch, arranged, strict=True)
            ]
            images = images_of_questions(encodings, batch, prompts, evidence_of(batch, arranged, loaded))
            total = total + _scores(loaded.adapter, config.compressor, images, prompts).double().sum(0).cpu()
            progress.update(len(batch))
    return tuple((total / len(samples)).float().tolist())


def _scores(
    adapter: Adapter, compressor: Compressor, images: ImageBatch, prompts: list[list[int]]
) -> Float[Tensor, "question patch"]:
    compressed = compressed_by(compressor, images, adapter.extra_needs)
    if not (cuts := checked_cuts(compressor)):
        return compressed.decision.scores
    _, pruning = answer_each(adapter, prompts, compressed, compressor.repack, cuts, Decoding(1))
    return pruning.decisions[-1].scores
