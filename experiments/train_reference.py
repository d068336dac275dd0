"""Trains the reference model from scratch: vision tower, language model, and model card."""

from pathlib import Path
from typing import Literal

from foveate.cli import run

STAGES = ("vision", "language", "card")


def main(
    stage: Literal["all", "vision", "language", "card", "video"] = "all",
    out: Path = Path("runs/reference"),
    seed: int = 0,
    images: int = 50_000,
    shown_images: int = 25_000,
    epoch_steps: int = 250,
    epoch_share: float = 1.0,
    card_questions: int = 1400,
) -> None:
    """Trains one stage, or all; each resumes a run that was stopped, and a finished stage takes seconds.

    Args:
        stage: "all" for vision, language and card, or one stage. "video" trains the finished model on clips, which it
            draws first, writes it to `<out>/llava-video`, and measures it.
        out: Folder of checkpoints and logs; the trained model is written to `<out>/llava`, its CLIP to `<out>/clip`,
            and a figure of the training to `<out>/training.png`.
        seed: Seed of initialization and data.
        images: Number of training images, which are drawn once.
        shown_images: Number of images of the language stage; each is shown several times with new questions.
        epoch_steps: Optimizer steps of an epoch; a stopped run repeats at most one epoch.
        epoch_share: Share of the epochs of every phase, for a trial.
        card_questions: Number of questions of the `test` split that a card reports on.
    """
    from reference_model.stages import Training

    training = Training(out, seed, images, shown_images, epoch_steps, epoch_share)
    for each in STAGES if stage == "all" else (stage,):
        match each:
            case "vision":
                training.vision()
            case "language":
                training.language()
            case "card":
                training.card(card_questions)
            case "video":
                training.video()
                training.video_card(card_questions)


if __name__ == "__main__":
    run(main)
