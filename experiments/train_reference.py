"""Trains the reference model from nothing: the vision tower, then projector and language model, then its model card."""

from pathlib import Path
from typing import Literal

import pytorch_lightning as lightning

from analysis.model_card import model_card
from foveate.cli import run
from foveate.compression import Identity
from foveate.evaluation import EvalConfig
from foveate.models.load import load
from foveate.reference.architecture import VOCABULARY
from foveate.reference.language_training import PHASES, LanguageTraining, SceneDialogues, collate, encoded_pictures
from foveate.reference.training import EpochsOfScenes, export, fit, trained_clip
from foveate.reference.vision_training import ScenePictures, VisionTraining


def main(
    stage: Literal["all", "vision", "places", "language", "card"] = "all",
    out: Path = Path("runs/reference"),
    vision_steps: int = 8000,
    places_steps: int = 1200,
    language_steps: int = 5500,
    pictures: int = 30_000,
    batch_size: int = 16,
    processes: int = 2,
    seed: int = 0,
) -> None:
    """Every stage continues where a killed run stopped; a finished one takes seconds.

    Args:
        stage: "all", or one of them.
        out: Folder of checkpoints and logs; the finished model goes to `<out>/llava`.
        vision_steps: Optimizer steps of the vision tower.
        places_steps: Optimizer steps in which the tower learns to keep the place of what it sees.
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
    if stage in ("all", "places"):
        data = EpochsOfScenes(lambda indices: ScenePictures(indices, seed), epoch(places_steps), batch_size)
        module = VisionTraining(places_steps, learning_rate=5e-4, drop_until=0.4, places=True)
        module.clip.load_state_dict(trained_clip(out / "vision").state_dict())
        fit(module, data, out / "places", places_steps, processes)
    if stage in ("all", "language"):
        clip = trained_clip(out / "places")
        bank = encoded_pictures(clip, pictures, out / "features.pt", seed)
        data = EpochsOfScenes(
            lambda indices: SceneDialogues(indices, bank, seed), epoch(language_steps), batch_size, collate
        )
        module = LanguageTraining(language_steps, clip)
        fit(module, data, out / "language", language_steps, processes)
        export(module.llava, out / "llava")
    if stage in ("all", "card"):
        parameters = sum(weight.numel() for weight in load(out / "llava").model.parameters())
        config = EvalConfig(Identity(), model=str(out / "llava"), out=out)
        card = model_card(config, parameters, len(VOCABULARY), PHASES[0].tokens)
        (out / "llava" / "README.md").write_text(card)


if __name__ == "__main__":
    run(main)
