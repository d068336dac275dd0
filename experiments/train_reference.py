"""Trains the reference model from nothing: the vision tower, then projector and language model, then its model card."""

from pathlib import Path
from typing import Literal

import pytorch_lightning as lightning

from foveate.cli import run
from foveate.reference.language_training import LanguageTraining, SceneDialogues, collate, encoded_pictures
from foveate.reference.training import EpochsOfScenes, export, fit
from foveate.reference.vision_training import ScenePictures, VisionTraining


def main(
    stage: Literal["all", "vision", "language", "card"] = "all",
    out: Path = Path("runs/reference"),
    vision_steps: int = 8000,
    language_steps: int = 8000,
    pictures: int = 40_000,
    batch_size: int = 16,
    processes: int = 2,
    seed: int = 0,
) -> None:
    """Every stage continues where a killed run stopped; a finished one takes seconds.

    Args:
        stage: "all", or one of them.
        out: Folder of checkpoints and logs; the finished model goes to `<out>/llava`.
        vision_steps: Optimizer steps of the vision tower.
        language_steps: Optimizer steps of projector and language model.
        pictures: Different training pictures of the second stage; each is asked about several times.
        batch_size: Pictures per process and step.
        processes: CPU processes of one thread each.
        seed: Of initialisation and data.
    """
    lightning.seed_everything(seed, verbose=False)

    def epoch(steps: int) -> int:
        return min(250, steps) * batch_size * processes

    if stage in ("all", "vision"):
        data = EpochsOfScenes(lambda indices: ScenePictures(indices, seed), epoch(vision_steps), batch_size)
        fit(VisionTraining(vision_steps), data, out / "vision", vision_steps, processes)
    if stage in ("all", "language"):
        clip = VisionTraining.load_from_checkpoint(out / "vision" / "last.ckpt", weights_only=False).clip
        bank = encoded_pictures(clip, pictures, out / "features.pt", seed)
        data = EpochsOfScenes(
            lambda indices: SceneDialogues(indices, bank, seed), epoch(language_steps), batch_size, collate
        )
        module = LanguageTraining(language_steps, clip)
        fit(module, data, out / "language", language_steps, processes)
        export(module.llava, out / "llava")


if __name__ == "__main__":
    run(main)
