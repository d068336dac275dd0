"""Stage 3: training of a text tower for the frozen vision tower, so that words can be compared with patches.

As in CLIP, the similarity of an image to its own text is contrasted with that to other texts. Image features are
computed once; the text tower, the two projections and the temperature are trained. Plain CLIP compares only [CLS] with
the text; here a short text is also compared with its most similar patches, without which the similarity of patches and
words would be undetermined. No patch has a label.
"""

from pathlib import Path
from typing import Any, cast

import numpy as np
import pytorch_lightning as lightning
import torch
from pytorch_lightning.utilities import rank_zero_only
from pytorch_lightning.utilities.types import OptimizerLRScheduler
from tokenizers.processors import TemplateProcessing
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset
from transformers import CLIPConfig, CLIPModel, CLIPVisionModel, LlavaForConditionalGeneration, PreTrainedTokenizerFast

from foveate.data.scenes.questions import make_questions
from foveate.data.scenes.scene import Scene, make_scene, stream
from foveate.reference.architecture import FEATURE_LAYER, VOCABULARY, clip_config, make_processor, make_tokenizer
from reference_model.training import computed_once, facts_of, image_of
from reference_model.vision_training import adamw, caption, normalised

IMAGES = 10_000  # enough for a frozen tower
LENGTH = 32
_END = "<end>"
_END_ID = len(
    VOCABULARY
)  # the highest ID, where both pooling rules of transformers pool; </s> is ID 2, the sign of the older rule
_MOST_SIMILAR = 4  # patches of an image that a short text is compared with


def text_tokenizer() -> PreTrainedTokenizerFast:
    """Returns a tokenizer of the reference model's words between <s> and <end>, padded on the right."""
    tokenizer = make_tokenizer()
    tokenizer.add_special_tokens({"eos_token": _END})
    start, end = ("<s>", VOCABULARY["<s>"]), (_END, _END_ID)
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single=f"{start[0]} $A {end[0]}", special_tokens=[start, end]
    )
    tokenizer.padding_side = "right"
    tokenizer.model_max_length = LENGTH
    return tokenizer


def paired_clip(tower: CLIPVisionModel) -> CLIPModel:
    """Returns a CLIP with this vision tower and a random text tower."""
    shape = clip_config().to_dict()
    shape["text_config"] |= {"vocab_size": _END_ID + 1, "eos_token_id": _END_ID, "max_position_embeddings": LENGTH}
    shape["vision_config"] = tower.config.to_dict()
    clip = CLIPModel(CLIPConfig(**shape))
    clip.vision_model.load_state_dict({n.removeprefix("vision_model."): w for n, w in tower.state_dict().items()})
    clip.vision_model.requires_grad_(False)
    return clip


def tower_of(folder: Path) -> CLIPVisionModel:
    """Returns the vision tower of a LLaVA checkpoint."""
    return cast(Any, LlavaForConditionalGeneration.from_pretrained(folder)).model.vision_tower.eval()


class _Images(Dataset):
    def __init__(self, images: int, seed: int) -> None:
        self.images, self.seed = images, seed

    def __len__(self) -> int:
        return self.images

    def __getitem__(self, index: int) -> tuple[Tensor, tuple]:
        scene = make_scene("train", index, self.seed)
        return normalised(scene.pixels), facts_of(scene)


def normed_images(tower: CLIPVisionModel, images: int, out: Path, seed: int = 0) -> dict:
    """Returns the inputs of the visual projection for the training images, computed once and stored in `out`.

    Returns:
        states (image, 1 + patch, dim) float16, [CLS] and then the patches of the penultimate layer, both after the
        tower's last norm; and the things of each image.
    """
    return computed_once(f"normed-{images}-{seed}", tower, out, lambda: _encode(tower, images, seed))


@torch.inference_mode()
def _encode(tower: CLIPVisionModel, images: int, seed: int) -> dict:
    states, things = [], []
    norm = cast(Any, tower).post_layernorm
    for rows in DataLoader(_Images(images, seed), batch_size=64, collate_fn=list):
        pixels, contents = zip(*rows, strict=True)
        result = tower(pixel_values=torch.stack(pixels), output_hidden_states=True)
        patches = norm(result.hidden_states[FEATURE_LAYER][:, 1:])
        states.append(torch.cat([result.pooler_output[:, None], patches], 1).half())
        things += contents
    return {"states": torch.cat(states), "things": things}


class TextPairs(Dataset):
    """Images with a caption that names everything and a phrase about one or two things; texts are never repeated."""

    def __init__(self, indices: range, bank: dict, seed: int = 0) -> None:
        self.indices, self.bank, self.seed = indices, bank, seed
        self.tokenizer = text_tokenizer()

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, item: int) -> dict[str, Tensor]:
        index = self.indices[item]
        image, scene = image_of(self.bank, index)
        rng = stream("train", image, self.seed, 3, index)
        words = caption(scene, rng)
        ids = self.tokenizer(phrase(scene, rng), padding="max_length", return_tensors="pt").input_ids[0]
        return {
            "states": self.bank["states"][image].float(),
            "caption": words.where(words != VOCABULARY["</s>"], _END_ID),
            "phrase": ids,
        }


def phrase(scene: Scene, rng: np.random.Generator) -> str:
    """Returns the names of one or two things, or a question about the image whose answer is not no."""
    if rng.random() < 0.5:
        texts = [question.text for question in make_questions(scene, rng) if question.answer != "no"]
        return texts[rng.integers(len(texts))]
    chosen = rng.permutation(len(scene.things))[: rng.integers(1, 3)]
    things = [scene.things[index] for index in chosen]
    return ", ".join(" ".join(filter(None, (thing.colour, thing.kind, thing.glyph))) for thing in things)


class TextTraining(lightning.LightningModule):
    """A training of `clip` without its vision tower."""

    def __init__(self, steps: int, clip: CLIPModel, learning_rate: float = 1e-3, patch_weight: float = 1.0) -> None:
        super().__init__()
        self.save_hyperparameters("steps", "learning_rate", "patch_weight")
        self.clip = clip

    def forward(self, states: Tensor, ids: Tensor) -> tuple[Tensor, Tensor]:
        """Returns the cosines of each text with each [CLS] (text, image) and with each patch (text, image, patch)."""
        image = F.normalize(self.clip.visual_projection(states), dim=-1)
        longest = int((ids != VOCABULARY["<pad>"]).sum(1).max())
        pooled = self.clip.text_model(input_ids=ids[:, :longest]).pooler_output
        cosine = torch.einsum("td,pnd->tpn", F.normalize(self.clip.text_projection(pooled), dim=-1), image)
        return cosine[..., 0], cosine[..., 1:]

    def training_step(self, batch: dict[str, Tensor]) -> Tensor:
        losses = {name: self._contrast(cosine) for name, cosine in self._compared(batch).items()}
        self.log_dict({f"loss/{name}": value for name, value in losses.items()})
        return losses["caption"] + losses["phrase"] + self.hparams["patch_weight"] * losses["patches"]

    def _compared(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        of_caption, _ = self(batch["states"], batch["caption"])
        of_phrase, of_patch = self(batch["states"], batch["phrase"])
        return {"caption": of_caption, "phrase": of_phrase, "patches": of_patch.topk(_MOST_SIMILAR, -1).values.mean(-1)}

    def _contrast(self, cosine: Tensor) -> Tensor:
        logits, own = self.clip.logit_scale.exp().clamp(max=100) * cosine, torch.arange(len(cosine))
        return (F.cross_entropy(logits, own) + F.cross_entropy(logits.T, own)) / 2

    def validation_step(self, batch: dict[str, Tensor]) -> None:
        """Logs the share of texts whose own image is the most similar of the batch."""
        own = torch.arange(len(batch["states"]))
        found = {name: (cosine.argmax(1) == own).float().mean() for name, cosine in self._compared(batch).items()}
        self.log_dict(found, sync_dist=True)

    def configure_optimizers(self) -> OptimizerLRScheduler:
        return adamw(self, self.hparams["learning_rate"], (0.9, 0.98), self.hparams["steps"])


@rank_zero_only
def export_clip(clip: CLIPModel, folder: Path) -> None:
    """Writes an ordinary CLIP folder with tokenizer and image processor."""
    clip.eval().save_pretrained(folder)
    text_tokenizer().save_pretrained(folder)
    make_processor().image_processor.save_pretrained(folder)
