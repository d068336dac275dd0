"""The stages of a training, from drawing the images to the model card."""

from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TypeVar

import pytorch_lightning as lightning
import torch
from torch.utils.data import DataLoader
from transformers import CLIPModel, LlavaForConditionalGeneration, PreTrainedModel

from foveate.reference.architecture import (
    make_processor,
    make_text_tokenizer,
    make_video_image_processor,
    make_video_tokenizer,
)
from reference_model import clips
from reference_model.clip_dialogues import ClipDialogues
from reference_model.clip_training import CLIP_PHASES, ClipTraining, video_model
from reference_model.dialogues import SceneDialogues, Texts, collate, encoded, features
from reference_model.images import Images, held_out_images, training_images
from reference_model.language_training import LANGUAGE_PHASES, LanguagePhase, LanguageTraining, untrained_llava
from reference_model.training import Epochs, fit, trained_clip
from reference_model.vision_training import VISION_PHASES, CaptionedImages, VisionPhase, VisionTraining, phase_of

_HELD_OUT_CAPTIONS, _HELD_OUT_DIALOGUES, _HELD_OUT_CLIPS = 256, 128, 96
_LARGEST_BATCH = max(phase.batch_size for phase in VISION_PHASES)
Phase = TypeVar("Phase", VisionPhase, LanguagePhase)


@dataclass(frozen=True)
class Training:
    """A training of one seed, whose stages are resumed if they were stopped.

    Attributes:
        out: Folder of images, checkpoints, logs, and the trained models `llava` and `clip`.
        seed: Seed of initialization and data.
        images: Number of training images.
        shown_images: Number of them in the language stage.
        epoch_steps: Optimizer steps of an epoch.
        epoch_share: Share of the epochs of every phase, at least one each.
        batch_size: Images, or clips, per step of the language and the video stage.
        clip_parts: Parts of `clips.PART` training clips.
    """

    out: Path
    seed: int = 0
    images: int = 50_000
    shown_images: int = 25_000
    epoch_steps: int = 250
    epoch_share: float = 1.0
    batch_size: int = 12
    clip_parts: int = 24

    @cached_property
    def drawn(self) -> Images:
        return training_images(self.images, self.seed, self.out)

    def vision(self) -> None:
        """Trains the CLIP and writes it to `<out>/clip`."""
        lightning.seed_everything(self.seed, verbose=False)
        phases = self._shortened(VISION_PHASES)
        epochs = sum(phase.epochs for phase in phases)
        module = VisionTraining(epochs * self.epoch_steps, phases)
        held_out = CaptionedImages(
            range(_HELD_OUT_CAPTIONS), held_out_images(_HELD_OUT_CAPTIONS, self.seed), None, self.seed
        )

        def training(epoch: int) -> DataLoader:
            phase, start = phase_of(phases, epoch), epoch * self.epoch_steps * _LARGEST_BATCH
            indices = range(start, start + self.epoch_steps * phase.batch_size)
            data = CaptionedImages(indices, self.drawn, phase.tokens, self.seed)
            return DataLoader(data, batch_size=phase.batch_size)

        fit(module, Epochs(training, DataLoader(held_out, batch_size=64)), self.out / "vision", epochs)
        _save(self.clip, self.out / "clip")
        make_processor().image_processor.save_pretrained(self.out / "clip")
        make_text_tokenizer().save_pretrained(self.out / "clip")

    @property
    def clip(self) -> CLIPModel:
        return trained_clip(self.out / "vision").eval()

    def language(self) -> None:
        """Trains projector and language model and writes the LLaVA to `<out>/llava`."""
        lightning.seed_everything(self.seed, verbose=False)
        clip, phases = self.clip, self._shortened(LANGUAGE_PHASES)
        shown = self.drawn.first(self.shown_images)
        states = features(clip, shown, self.out)
        module = LanguageTraining(untrained_llava(clip), phases)
        held_out = held_out_images(_HELD_OUT_DIALOGUES, self.seed)
        dialogues = SceneDialogues(range(len(held_out)), held_out, encoded(clip, held_out), Texts(), self.seed)

        def training(epoch: int) -> DataLoader:
            phase, size = module.current, self.epoch_steps * self.batch_size
            indices = range(epoch * size, (epoch + 1) * size)
            data = SceneDialogues(indices, shown, states, phase.texts, self.seed)
            return DataLoader(data, batch_size=self.batch_size, collate_fn=collate)

        validation = DataLoader(dialogues, batch_size=32, collate_fn=collate)
        epochs = sum(phase.epochs for phase in phases)
        fit(module, Epochs(training, validation), self.out / "language", epochs, clip_gradients=False)
        module.load_state_dict(torch.load(self.out / "language" / "last.ckpt", weights_only=True)["state_dict"])
        _save(module.llava, self.out / "llava")
        make_processor().save_pretrained(self.out / "llava")

    def video(self) -> None:
        """Trains the model of `<out>/llava` on clips, as a LLaVA-NeXT-Video, and writes it to `<out>/llava-video`."""
        lightning.seed_everything(self.seed, verbose=False)
        folder, phases, llava = self.out / "video", self._shortened(CLIP_PHASES), self._llava()
        clips.draw(llava.model.vision_tower, self.clip_parts, self.seed, folder)
        shown = clips.read(self.clip_parts, folder)
        module = ClipTraining(video_model(llava), phases)
        held_out = [clips.held_out(folder).first(_HELD_OUT_CLIPS)]
        dialogues = ClipDialogues(range(_HELD_OUT_CLIPS), held_out, Texts(), self.seed)

        def training(epoch: int) -> DataLoader:
            size = self.epoch_steps * self.batch_size
            indices = range(epoch * size, (epoch + 1) * size)
            data = ClipDialogues(indices, shown, module.current.texts, self.seed)
            return DataLoader(data, batch_size=self.batch_size, collate_fn=collate)

        validation = DataLoader(dialogues, batch_size=12, collate_fn=collate)
        epochs = sum(phase.epochs for phase in phases)
        fit(module, Epochs(training, validation), folder, epochs, clip_gradients=False)
        module.load_state_dict(torch.load(folder / "last.ckpt", weights_only=True)["state_dict"])
        _save(module.llava, self.out / "llava-video")
        make_video_image_processor().save_pretrained(self.out / "llava-video")
        make_video_tokenizer().save_pretrained(self.out / "llava-video")

    def video_card(self, questions: int) -> None:
        """Measures the model for videos and writes its card."""
        from reference_model.video_card import write_video_card

        write_video_card(self.out, questions)

    def _llava(self) -> LlavaForConditionalGeneration:
        return LlavaForConditionalGeneration.from_pretrained(self.out / "llava", dtype=torch.float32).eval()

    def card(self, questions: int) -> None:
        """Measures the trained models, writes their cards, and draws the training to `<out>/training.png`."""
        from reference_model.curves import training_figure
        from reference_model.model_card import write_cards

        training_figure(self.out, self.seed, self._shortened(VISION_PHASES))
        write_cards(self.out, self.seed, questions)

    def _shortened(self, phases: tuple[Phase, ...]) -> tuple[Phase, ...]:
        return tuple(replace(phase, epochs=max(1, round(phase.epochs * self.epoch_share))) for phase in phases)


def _save(model: PreTrainedModel, folder: Path) -> None:
    """Writes weights in half precision; the configuration says float32, in which they are loaded."""
    model.eval().save_pretrained(folder, state_dict={name: value.half() for name, value in model.state_dict().items()})
