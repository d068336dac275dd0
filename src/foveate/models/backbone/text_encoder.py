"""The CLIP that a vision tower was taken from, which maps patches and questions into one space.

A LLaVA checkpoint holds only the tower, so the CLIP is loaded separately. Patches pass the tower's last norm and the
visual projection, as [CLS] does in CLIP. Source: the code of arXiv 2506.10967 (CDPruner), which splits a long question
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
from foveate.core.transfer import on_device

COMPANION_HINT = "name the CLIP that the vision tower was taken from; for LLaVA-1.5: openai/clip-vit-large-patch14-336"


@dataclass(frozen=True, eq=False)
class Companion:
    """A CLIP with the tokenizer of its text encoder; it computes in its own precision."""

    clip: CLIPModel
    tokenizer: Any

    @property
    def window(self) -> int:
        """Number of tokens that the text encoder reads at once."""
        return self.clip.text_model.config.max_position_embeddings

    @torch.no_grad()
    def patches(
        self, features: Float[Tensor, "image patch dim"], normed: bool = True
    ) -> Float[Tensor, "image patch joint"]:
        """Maps patches into the shared space, without normalising them.

        Args:
            features: States of the tower's penultimate layer, without [CLS].
            normed: Whether the tower's last norm comes first.

        Raises:
            UnsupportedModel: The features have another width than this CLIP's tower.
        """
        projection = self.clip.visual_projection
        if features.shape[2] != projection.in_features:
            raise UnsupportedModel(
                f"companion: its vision tower is {projection.in_features} wide, these features are "
                f"{features.shape[2]} wide; {COMPANION_HINT}"
            )
        states = features.to(projection.weight)
        return projection(self.clip.vision_model.post_layernorm(states) if normed else states)

    def texts(self, questions: Sequence[str], truncated: bool) -> Float[Tensor, "question segment joint"]:
        """Maps questions into the shared space, without normalising them; see `embed`."""
        ids = self.tokenizer(list(questions), verbose=False)["input_ids"]  # it would warn of long ones
        return self.embed(ids, truncated)

    def words(self, questions: Sequence[str]) -> Float[Tensor, "question word joint"]:
        """Maps every token of questions into the shared space, without normalising them; see `embed_words`."""
        return self.embed_words(self.tokenizer(list(questions), verbose=False)["input_ids"])

    @torch.no_grad()
    def embed_words(self, questions: Sequence[Sequence[int]]) -> Float[Tensor, "question word joint"]:
        """Maps every token into the shared space; of a long question those that `embed` reads with `truncated`.

        Args:
            questions: Token ids of each question.

        Returns:
            One embedding per token; rows of zeros pad shorter questions.
        """
        rows = [_windows(question, self.window, truncated=True)[0] for question in questions]
        states = self._encoded(rows).last_hidden_state
        longest = max(map(len, rows))
        real = torch.tensor([[word < len(row) for word in range(longest)] for row in rows])
        return self.clip.text_projection(states[:, :longest]) * on_device(real, states.device)[..., None]

    @torch.no_grad()
    def embed(self, questions: Sequence[Sequence[int]], truncated: bool) -> Float[Tensor, "question segment joint"]:
        """Maps token ids, from the first special token to the last, into the shared space.

        Args:
            questions: Token ids of each question.
            truncated: Whether to keep only the first window of a long question, with the question's last token as its
                last one; otherwise every window is a segment.

        Returns:
            One embedding per segment, pooled as transformers does it, also for segments without the end token. Rows of
            zeros pad questions with fewer segments.
        """
        split = [_windows(question, self.window, truncated) for question in questions]
        segments = [segment for windows in split for segment in windows]
        embeddings = self.clip.text_projection(self._encoded(segments).pooler_output)
        return pad_sequence(list(embeddings.split([len(windows) for windows in split])), batch_first=True)

    def _encoded(self, segments: Sequence[Sequence[int]]) -> Any:  # noqa: ANN401 (a class of transformers)
        """Returns the text encoder's output for segments of at most one window."""
        # Rows are padded to the whole window, so that no embedding depends on the length of the other questions.
        ids = torch.zeros(len(segments), self.window, dtype=torch.long)
        mask = torch.zeros_like(ids)
        for row, segment in enumerate(segments):
            ids[row, : len(segment)] = torch.tensor(segment)
            mask[row, : len(segment)] = 1
        device = self.clip.device
        return self.clip.text_model(input_ids=on_device(ids, device), attention_mask=on_device(mask, device))


def _windows(question: Sequence[int], window: int, truncated: bool) -> list[list[int]]:
    ids = list(question)
    if truncated and len(ids) > window:
        return [[*ids[: window - 1], ids[-1]]]
    return [ids[start : start + window] for start in range(0, len(ids), window)]
