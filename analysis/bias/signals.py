"""The signals of a bias measurement: which there are, on which side of the model, and in which order they are told."""

from collections.abc import Iterable

import pandas as pd

TOWER, DECODER = ("cls", "cls sum", "received"), ("prompt", "question", "every", "response", "answer")
CONTROLS = ("evidence", "occlusion", "thinned", "random", "uniform")
ORDER = (*TOWER, *DECODER, *CONTROLS)
RESPONSE, ANSWER, EVIDENCE, RANDOM = "response", "answer", "evidence", "random"
RESPONSES = (RESPONSE, ANSWER)  # rows that produce the answer; of these only the answer's own
PROMPTS = ("prompt", "question")  # the last prompt token; the mean over all text tokens of the question
ROW = ["sample_id", "image_id", "signal", "layers"]

Key = tuple[str, str]  # signal and layers


def key_order(key: Key) -> tuple[int, int, list[int]]:
    """Signals as in `ORDER`, of each single layers before sums."""
    signal, layers = key
    ends = [int(end) for end in layers.split("-") if end]
    return ORDER.index(signal) if signal in ORDER else len(ORDER), len(ends), ends


def ordered(frame: pd.DataFrame, beside: Iterable[str] = ()) -> pd.DataFrame:
    """Rows by `key_order`, then by these columns, else as they come."""
    keys = pd.MultiIndex.from_frame(frame[["signal", "layers"]])
    rank = {key: place for place, key in enumerate(sorted(keys.unique(), key=key_order))}
    order = frame.assign(_key=[rank[key] for key in keys])
    return order.sort_values(["_key", *beside], kind="stable", ignore_index=True).drop(columns="_key")


def is_whole(key: Key) -> bool:
    """Of the response the mean over blocks, which stands as a range; of others any layer."""
    return key[0] not in RESPONSES or "-" in key[1]
