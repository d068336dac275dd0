"""Smaller batches, and the error, where memory does not suffice for a batch."""

import gc

import torch

from foveate.core.errors import MemoryExhausted, message_of
from foveate.evaluation import ranks


def halved(size: int) -> int:
    """Returns half of a number of questions, after freeing what the failed batch has left and saying so in one line."""
    gc.collect()
    if torch.accelerator.is_available():
        torch.accelerator.empty_cache()
    ranks.notice(
        f"memory does not suffice for {size} questions at once: now {size // 2} are answered at once, and no answer "
        f"is lost (--batch-size {size // 2} starts with that)"
    )
    return size // 2


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
