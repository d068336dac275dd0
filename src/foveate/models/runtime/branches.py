"""Texts that continue prompts: those about one image run in one row, so that its keys and values are not copied."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Bool, Int, Shaped
from torch import Tensor

from foveate.core.transfer import on_device, rows_of
from foveate.functional.sequence import left_padded, positions

_NONE = -1
_MOST_COLUMNS = 1.5  # columns per text; the others are computed for nothing


@dataclass(frozen=True, eq=False)
class Branches:
    """Texts that continue prompts, prompt by prompt, each of which is read without the others.

    Attributes:
        owners: The prompt that each text continues, ascending.
        owner: The same on the device.
        tokens: The texts, left-padded.
        real: Marks the tokens of the texts that are not padding.
        column: The column of each real token if the texts of a prompt follow each other in one row; 0 for padding.
        packed: These rows, right-padded.
        text: The text that each packed token belongs to; -1 for padding.
        offset: The place of each packed token in its text; 0 for padding.
    """

    owners: Sequence[int]
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
        owners = [prompt for prompt, some in enumerate(texts) for _ in some]
        owner = torch.tensor(owners)
        tokens, real = left_padded([text for some in texts for text in some], padding, owner.device)
        lengths, place = real.sum(1), positions(real)
        before = lengths.cumsum(0) - lengths
        column = ((before - before[torch.searchsorted(owner, owner)])[:, None] + place).masked_fill(~real, 0)
        row, at = real.nonzero().unbind(1)
        target = owner[row], column[row, at]
        packed = torch.full((len(texts), int(column.max()) + 1 if column.numel() else 0), padding)
        text, offset = torch.full_like(packed, _NONE), torch.zeros_like(packed)
        packed[target], text[target], offset[target] = tokens[row, at], row, place[row, at]
        made = (owner, tokens, real, column, packed, text, offset)
        return cls(owners, *(on_device(values, device) for values in made))

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
        rows: The row of each text, ascending.
        slots: (text, slot) the slots of its prompt and its tokens in this row, in their order.
        size: Number of rows and number of slots of a row.
    """

    rows: Sequence[int]
    slots: Int[Tensor, "text slot"]
    size: tuple[int, int]

    def chosen(self, texts: Sequence[int]) -> "SharedRows":
        """Returns the places of some texts, in ascending order."""
        return SharedRows([self.rows[text] for text in texts], rows_of(self.slots, texts), self.size)

    @cached_property
    def next_token(self) -> "NextToken":
        """The places of one further token of each text."""
        before: Counter[int] = Counter()
        columns: list[int] = []
        for row in self.rows:
            columns.append(before[row])
            before[row] += 1
        places = torch.tensor([self.rows, columns])
        row, column = on_device(places, self.slots.device).unbind(0)
        return NextToken(row, column, (self.size[0], max(before.values())))

    @property
    def worthwhile(self) -> bool:
        """True if a further token of each text costs less in shared rows than copies of keys and values.

        Shared rows compute tokens for nothing where one has fewer texts than another, and grow by a token of each text.
        """
        (rows, slots), texts = self.size, len(self.rows)
        width = self.next_token.size[1]
        return rows * width <= _MOST_COLUMNS * texts and rows * (slots + width) <= texts * (self.slots.shape[1] + 1)

    def extended(self) -> "SharedRows":
        """Returns the places after one further token of each text."""
        new = self.next_token
        slots = torch.cat([self.slots, self.size[1] + new.column[:, None]], 1)
        return SharedRows(self.rows, slots, (self.size[0], self.size[1] + new.size[1]))

    def mask(self, real: Bool[Tensor, "text slot"]) -> Bool[Tensor, "text slots"]:
        """Returns which slots of its row each text has.

        Args:
            real: Marks those of its slots that are not padding.
        """
        found = torch.zeros(len(real), self.size[1], dtype=torch.uint8, device=real.device)
        return found.scatter_add_(1, self.slots, real.to(found.dtype)).bool()  # padding may name a slot again

    def of(self, real: Bool[Tensor, "text slot"]) -> tuple[Callable[[Tensor], Tensor], Tensor]:
        """Returns a function that gives each text its own keys or values, and the mask of the real ones.

        The function maps (row, head, slot, channel) to (text, head, slot, channel). Slots are left-padded as far as
        some text needs it.

        Args:
            real: Marks the slots that are not padding.
        """
        longest = int(real.sum(1).max())
        order = real.long().argsort(dim=1, stable=True)[:, real.shape[1] - longest :]
        row = on_device(torch.tensor(self.rows), order.device)
        index = row[:, None] * self.size[1] + self.slots.gather(1, order)

        def own(values: Tensor) -> Tensor:
            places = values.transpose(1, 2).flatten(0, 1)  # one index is faster than two
            chosen = places.index_select(0, index.to(values.device).flatten())
            return chosen.unflatten(0, index.shape).transpose(1, 2)

        return own, real.gather(1, order)


@dataclass(frozen=True, eq=False)
class NextToken:
    """Places of one token of each text in shared rows.

    Attributes:
        row: The row of each text.
        column: The column of its token in this row.
        size: Number of rows and of columns.
    """

    row: Int[Tensor, " text"]
    column: Int[Tensor, " text"]
    size: tuple[int, int]

    def packed(self, values: Shaped[Tensor, " text *rest"]) -> Shaped[Tensor, "row column *rest"]:
        """Returns values of texts in their places, with zeros elsewhere."""
        found = values.new_zeros(*self.size, *values.shape[1:])
        found[self.row, self.column] = values
        return found
