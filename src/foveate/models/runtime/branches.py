"""Texts that continue prompts: those about one image run in one row, so that its keys and values are not copied."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from foveate.core.transfer import on_device
from foveate.functional.sequence import left_padded, positions

_NONE = -1


@dataclass(frozen=True, eq=False)
class Branches:
    """Texts that continue prompts, prompt by prompt, each of which is read without the others.

    Attributes:
        owner: The prompt that each text continues, ascending.
        tokens: The texts, left-padded.
        real: Marks the tokens of the texts that are not padding.
        column: The column of each real token if the texts of a prompt follow each other in one row; 0 for padding.
        packed: These rows, right-padded.
        text: The text that each packed token belongs to; -1 for padding.
        offset: The place of each packed token in its text; 0 for padding.
    """

    owner: Int[Tensor, " text"]
    tokens: Int[Tensor, "text token"]
    real: Bool[Tensor, "text token"]
    column: Int[Tensor, "text token"]
    packed: Int[Tensor, "prompt column"]
    text: Int[Tensor, "prompt column"]
    offset: Int[Tensor, "prompt column"]

    @classmethod
    def of(cls, texts: Sequence[Sequence[Sequence[int]]], padding: int, device: torch.device) -> "Branches":
        """Packs texts.

        Args:
            texts: The texts of each prompt.
            padding: The token of padding.
            device: Device of the tensors; they are computed on the host.
        """
        owner = torch.tensor([prompt for prompt, some in enumerate(texts) for _ in some])
        tokens, real = left_padded([text for some in texts for text in some], padding, owner.device)
        lengths, place = real.sum(1), positions(real)
        before = lengths.cumsum(0) - lengths
        column = ((before - before[torch.searchsorted(owner, owner)])[:, None] + place).masked_fill(~real, 0)
        row, at = real.nonzero().unbind(1)
        target = owner[row], column[row, at]
        packed = torch.full((len(texts), int(column.max()) + 1 if column.numel() else 0), padding)
        text, offset = torch.full_like(packed, _NONE), torch.zeros_like(packed)
        packed[target], text[target], offset[target] = tokens[row, at], row, place[row, at]
        return cls(*(on_device(values, device) for values in (owner, tokens, real, column, packed, text, offset)))

    def mask(self, prompts: Bool[Tensor, "prompt slot"]) -> Bool[Tensor, "prompt one column slots"]:
        """Returns which slots each packed token attends to: those of its prompt, and earlier ones of its own text.

        Args:
            prompts: Marks the tokens of the prompts that are not padding.
        """
        own = (self.text[:, :, None] == self.text[:, None]).tril()
        return torch.cat([prompts[:, None].expand(-1, own.shape[1], -1), own], 2)[:, None]

    def slots(self, prompt: int) -> Int[Tensor, "text slot"]:
        """Returns the slots of each text's prompt and tokens in the row of its prompt.

        Args:
            prompt: Number of slots of the prompts.
        """
        before = torch.arange(prompt, device=self.owner.device).expand(len(self.owner), -1)
        return torch.cat([before, prompt + self.column], 1)


@dataclass(frozen=True, eq=False)
class SharedRows:
    """Places of the keys and values of prompts with texts, as long as those of several texts share a row.

    Attributes:
        row: The row of each text.
        slots: The slots of its prompt and its tokens, in their order.
    """

    row: Int[Tensor, " text"]
    slots: Int[Tensor, "text slot"]

    def chosen(self, texts: Int[Tensor, " chosen"], real: Bool[Tensor, "chosen slot"]) -> tuple["SharedRows", Tensor]:
        """Returns the places of some texts without those of padding, as far as all rows have some.

        Args:
            texts: The texts.
            real: Marks their slots that are not padding.

        Returns:
            The places, left-padded, and the mask of the real ones.
        """
        longest = int(real.sum(1).max())
        order = real.long().argsort(dim=1, stable=True)[:, real.shape[1] - longest :]
        return SharedRows(self.row[texts], self.slots[texts].gather(1, order)), real.gather(1, order)

    def of(self, values: Tensor) -> Tensor:
        """Returns the keys or values (row, head, slot, channel) of each text: (text, head, slot, channel)."""
        row, slots = self.row.to(values.device), self.slots.to(values.device)
        length, places = values.shape[2], values.transpose(1, 2).flatten(0, 1)  # one index is faster than two
        chosen = places.index_select(0, (row[:, None] * length + slots).flatten())
        return chosen.unflatten(0, slots.shape).transpose(1, 2)
