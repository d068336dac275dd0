"""The CLIP that a vision tower was taken from: it puts patches and questions into one space.

A LLaVA checkpoint holds the tower alone, so the rest is loaded beside it. Patches pass the tower's last norm and the
visual projection, as [CLS] does in CLIP. Source: the code of arXiv 2506.10967 (CDPruner), which cuts a long question
into windows, and of arXiv 2409.10994 (TRIM), which keeps the first one.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers import CLIPModel

from foveate.core.errors import UnsupportedModel

COMPANION_HINT = "name the CLIP that the vision tower came from; for LLaVA-1.5 it is openai/clip-vit-large-patch14-336"


@dataclass(frozen=True, eq=False)
class Companion:
    """A CLIP and the tokenizer of its text half; whatever it is given, it computes in its own precision."""

    clip: CLIPModel
    tokenizer: Any

    @property
    def window(self) -> int:
        """Tokens that the text half reads at once."""
        return self.clip.text_model.config.max_position_embeddings

    @torch.no_grad()
    def patches(self, features: Float[Tensor, "image patch dim"]) -> Float[Tensor, "image patch joint"]:
        """Patches in the shared space, not normalised.

        Args:
            features: States of the tower's penultimate layer, without [CLS].

        Raises:
            UnsupportedModel: They are those of another tower.
        """
        projection = self.clip.visual_projection
        if features.shape[2] != projection.in_features:
            raise UnsupportedModel(
                f"companion: its vision tower is {projection.in_features} wide, these features are "
                f"{features.shape[2]} wide; {COMPANION_HINT}"
            )
        return projection(self.clip.vision_model.post_layernorm(features.to(projection.weight)))

    def texts(self, questions: Sequence[str], truncated: bool) -> Float[Tensor, "question segment joint"]:
        """Questions in the shared space, not normalised; see `embed`."""
        ids = self.tokenizer(list(questions), verbose=False)["input_ids"]  # it would warn of long ones
        return self.embed(ids, truncated)

    @torch.no_grad()
    def embed(self, questions: Sequence[Sequence[int]], truncated: bool) -> Float[Tensor, "question segment joint"]:
        """Token ids, from the first special token to the last, in the shared space.

        Args:
            questions: Token ids of each question.
            truncated: Keep the first window of a long question, its last token replaced by the question's last one;
                else every window is a segment of its own.

        Returns:
            One embedding per segment, pooled as transformers does it; a segment without the end token too. Rows of
            zeros pad questions with fewer segments.
        """
        cut = [_windows(question, self.window, truncated) for question in questions]
        segments = [segment for windows in cut for segment in windows]
        # always the whole window, so that no question's embedding depends on how long the others are
        ids = torch.zeros(len(segments), self.window, dtype=torch.long)
        mask = torch.zeros_like(ids)
        for row, segment in enumerate(segments):
            ids[row, : len(segment)] = torch.tensor(segment)
            mask[row, : len(segment)] = 1
        device = self.clip.device
        pooled = self.clip.text_model(input_ids=ids.to(device), attention_mask=mask.to(device)).pooler_output
        embeddings = self.clip.text_projection(pooled)
        return pad_sequence(list(embeddings.split([len(windows) for windows in cut])), batch_first=True)


def _windows(question: Sequence[int], window: int, truncated: bool) -> list[list[int]]:
    ids = list(question)
    if truncated and len(ids) > window:
        return [[*ids[: window - 1], ids[-1]]]
    return [ids[start : start + window] for start in range(0, len(ids), window)]
