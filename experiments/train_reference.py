"""Trains the reference model from scratch: vision tower, language model, text encoder, and model cards."""

import subprocess
import sys
from pathlib import Path
from typing import Literal

from foveate.cli import run

STAGES = ("vision", "places", "language", "text", "card")


def main(
    stage: Literal["all", "vision", "places", "language", "text", "card"] = "all",
    out: Path = Path("runs/reference"),
    vision_steps: int = 8000,
    places_steps: int = 1200,
    language_steps: int = 5500,
    text_steps: int = 2000,
    images: int = 30_000,
    batch_size: int = 16,
    processes: int = 2,
    seed: int = 0,
    card_questions: int = 2400,
) -> None:
    """Trains one stage, or all; each resumes a run that was stopped, and a finished stage takes seconds.

    Args:
        stage: "all", or one stage.
        out: Folder of checkpoints and logs; the trained model is written to `<out>/llava`, its companion to
            `<out>/clip`.
        vision_steps: Optimizer steps of the vision tower.
        places_steps: Optimizer steps in which the tower learns to encode positions.
        language_steps: Optimizer steps of projector and language model.
        text_steps: Optimizer steps of the companion's text encoder.
        images: Number of training images of the language stage, and largest number of the text stage; each has several
            questions.
        batch_size: Images per process and step; the text stage, which is contrastive, has four times as many.
        processes: CPU processes of one thread each; the text stage has one.
        seed: Seed of initialization and data.
        card_questions: Number of questions of the `test` split that the cards report on.
    """
    if stage == "all":  # a process each: the second process of a stage re-runs this script
        for each in STAGES:
            subprocess.run([sys.executable, *sys.argv, "--stage", each], check=True)
        return
    import pytorch_lightning as lightning

    from foveate.compressors import Identity
    from foveate.evaluation import EvalConfig
    from reference_model import text_training as text
    from reference_model.companion_card import companion_card
    from reference_model.language_training import LanguageTraining, SceneDialogues, collate, encoded_images
    from reference_model.model_card import model_card
    from reference_model.training import EpochsOfScenes, export, fit, trained_clip
    from reference_model.vision_training import SceneImages, VisionTraining

    lightning.seed_everything(seed, verbose=False)

    def images_per_epoch(steps: int) -> int:
        return min(250, steps) * batch_size * processes

    def scenes(steps: int) -> EpochsOfScenes:
        return EpochsOfScenes(lambda indices: SceneImages(indices, seed), images_per_epoch(steps), batch_size)

    match stage:
        case "vision":
            fit(VisionTraining(vision_steps), scenes(vision_steps), out / stage, vision_steps, processes)
        case "places":
            module = VisionTraining(places_steps, learning_rate=5e-4, drop_until=0.4, places=True)
            module.clip.load_state_dict(trained_clip(out / "vision").state_dict())
            fit(module, scenes(places_steps), out / stage, places_steps, processes)
        case "language":
            clip = trained_clip(out / "places")
            bank = encoded_images(clip, images, out, seed)
            module = LanguageTraining(language_steps, clip)
            size = images_per_epoch(language_steps)
            dialogues = EpochsOfScenes(lambda indices: SceneDialogues(indices, bank, seed), size, batch_size, collate)
            fit(module, dialogues, out / stage, language_steps, processes)
            export(module.llava, out / "llava")
        case "text":
            tower = text.tower_of(out / "llava")
            bank = text.normed_images(tower, min(images, text.IMAGES), out, seed)
            module, size = text.TextTraining(text_steps, text.paired_clip(tower)), 4 * batch_size
            pairs = EpochsOfScenes(
                lambda indices: text.TextPairs(indices, bank, seed), min(250, text_steps) * size, size
            )
            fit(module, pairs, out / stage, text_steps, processes=1)
            text.export_clip(module.clip, out / "clip")
        case "card":
            config = EvalConfig(Identity(), model=str(out / "llava"), limit=card_questions, out=out)
            (out / "llava" / "README.md").write_text(model_card(config))
            (out / "clip" / "README.md").write_text(companion_card(out / "llava", out / "clip", limit=card_questions))


if __name__ == "__main__":
    run(main)
