"""Smaller batches, and the error, where memory does not suffice for a batch."""

import gc
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch

from foveate.core.errors import MemoryExhausted, lacks_memory, message_of
from foveate.evaluation import ranks

Item = TypeVar("Item")
Found = TypeVar("Found")


@dataclass
class InParts:
    """Work on many items, in parts of at most as many as memory has sufficed for.

    Attributes:
        items: What the items are, in the plural.
        worked: What happens to them, as a participle.
        option: The option that sets the size of a part; empty if there is none.
        most: Largest number of items at once; None means no limit.
    """

    items: str
    worked: str
    option: str = ""
    most: int | None = None

    def run(
        self, items: Sequence[Item], work: Callable[[Sequence[Item]], Found], name: Callable[[Item], str]
    ) -> Iterator[Found]:
        """Yields the results of all parts; one that exceeds memory is repeated in halves, which a line says.

        Args:
            items: The items.
            work: Returns the result of a part.
            name: Returns the name of an item, for the error message.

        Raises:
            MemoryExhausted: Memory does not suffice for a single item.
        """
        left = items
        while left:
            some = left[: self.most]
            try:
                found = work(some)
            except (RuntimeError, MemoryError) as error:
                if not lacks_memory(error):
                    raise
                if len(some) == 1:
                    raise exhausted(f"{name(some[0])} alone", error) from error
            else:
                yield found
                left = left[len(some) :]
                continue
            self._halve(len(some))  # here, where the error's frames hold no tensors any more

    def _halve(self, size: int) -> None:
        """Halves the size of parts, after freeing what the failed part has left."""
        gc.collect()
        if torch.accelerator.is_available():
            torch.accelerator.empty_cache()
        self.most = size // 2
        hint = f" ({self.option} {self.most} starts with that)" if self.option else ""
        ranks.notice(
            f"memory does not suffice for {size} {self.items} at once: now {self.most} are {self.worked} at once, and "
            f"nothing is lost{hint}"
        )


def exhausted(what: str, error: BaseException) -> MemoryExhausted:
    """Returns the error for what does not fit into memory, with the cures.

    Args:
        what: What does not fit, such as "question 'x' alone".
        error: The error of the allocator.
    """
    return MemoryExhausted(
        f"memory does not suffice for {what} ({message_of(error)}). What needs less: --dtype "
        "bfloat16, fewer kept patches, smaller images, a smaller --max-new-tokens, a smaller model; or a device with "
        "more memory (--device)"
    )
