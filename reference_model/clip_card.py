"""Model cards of the CLIPs beside the reference models: do words find the patches that show what they name?"""

import pandas as pd
import torch

from foveate.analysis.statistics import mean_interval
from foveate.analysis.tables import grid
from foveate.data.load import load_samples
from foveate.data.names import SCENES
from foveate.data.sample import VQASample
from foveate.evaluation.evidence import evidence_of
from foveate.metrics.evidence import SHOWN
from foveate.models.loading.load import LoadedModel
from foveate.models.runtime.images import Texts
from foveate.scorers import TextSimilarity
from reference_model.acceptance import kinds_of, shown
from reference_model.attention import auc

_BATCH = 100
_TEXT = """---
license: apache-2.0
---

# The CLIP of a reference model of foveate (seed {seed})

A CLIP in transformers' own class, trained from random initialization on captions of synthetic scenes; its vision tower
equals, bit by bit, that of the reference LLaVA beside it, whose card says how it was trained. Scorers that compare
patches with the question (`cdpruner`, `trim`) read it. Captions name things and never strings or digits, and no part of
the loss compares a patch with a text.

## Does similarity find the evidence?

Area under the ROC curve (AUC) of the cosine of a patch and the question, in %: the chance that a patch that shows what
the question needs is more similar to it than another patch. CDPruner and TRIM keep the *least* similar patches, whose
AUC is 100 minus this. {size} 95 % intervals over images.

{rows}
"""


def clip_card(loaded: LoadedModel, split: str, questions: int, seed: int) -> str:
    """Measures the CLIP of a model and returns its card.

    Args:
        loaded: The model with its CLIP.
        split: Split of the scenes.
        questions: Number of questions.
        seed: The seed of the training.
    """
    samples = load_samples(SCENES, split, questions)
    found = pd.concat([_aucs(loaded, samples[i : i + _BATCH]) for i in range(0, len(samples), _BATCH)])
    found = found.reset_index(drop=True)
    rows = [
        {"questions": name, "n": f"{chosen.sum():,}", "AUC": shown(mean_interval(some["auc"], some["image_id"]))}
        for name, chosen in kinds_of(found)
        for some in [found[chosen]]
    ]
    size = f"n = {len(found):,} questions about {found['image_id'].nunique():,} images."
    return _TEXT.format(seed=seed, size=size, rows=grid(rows))


@torch.inference_mode()
def _aucs(loaded: LoadedModel, samples: list[VQASample]) -> pd.DataFrame:
    prompts = [loaded.prompt(sample.question) for sample in samples]
    questions = [loaded.adapter.question(prompt, loaded.text_side.tail) for prompt in prompts]
    texts = Texts(prompts, questions, [sample.question for sample in samples])
    images = loaded.images([sample.image for sample in samples], lambda: texts)
    scorer = TextSimilarity()
    scores = scorer.score(images.encode(scorer.needs)[1]).numpy()
    needed = (evidence_of(samples, [images.arrangement] * len(samples)) >= SHOWN).any(1).numpy()
    return pd.DataFrame(
        {
            "kind": [sample.kind for sample in samples],
            "image_id": [sample.image_id for sample in samples],
            "auc": [auc(row, patches) for row, patches in zip(scores, needed, strict=True)],
        }
    )
