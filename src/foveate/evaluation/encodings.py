"""Vision features and [CLS] rows of all layers: computed once per model and data, replayed by every configuration."""

import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from datasets import (
    Array2D,
    Dataset,
    Features,
    Value,
    are_progress_bars_disabled,
    disable_progress_bars,
    enable_progress_bars,
)
from filelock import FileLock
from PIL.Image import Image
from torch import Tensor

from foveate.core.errors import UnsupportedNeed
from foveate.core.needs import ClsRows, EvidenceShare, Fingerprint, Need
from foveate.core.types import Trace
from foveate.models.load import LoadedModel

_PICTURES = 16  # encoded at a time


class Encodings:
    """The tower's view of every picture of a data set, on disk."""

    def __init__(self, loaded: LoadedModel, table: Dataset) -> None:
        self.loaded, self.table = loaded, table.with_format("torch")
        self._row = {image_id: row for row, image_id in enumerate(table["image_id"])}

    @classmethod
    def of(cls, loaded: LoadedModel, images: Mapping[str, Image], folder: Path) -> "Encodings":
        """Opens the encodings in `folder`, after making them if need be.

        Only a finished table ever carries the name; a second process waits for the first.
        """
        folder.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{folder}.lock"):
            if not folder.exists():
                unfinished = folder.with_suffix(".part")
                shutil.rmtree(unfinished, ignore_errors=True)
                _write(loaded, images, unfinished)
                unfinished.rename(folder)
        return cls(loaded, Dataset.load_from_disk(str(folder)))

    def trace(self, image_ids: Sequence[str], needs: Sequence[Need], evidence: Tensor) -> tuple[Tensor, Trace]:
        """Features (before the projector) and trace of the given pictures, as `Llava.encode` gives them.

        Args:
            image_ids: One per row; may repeat.
            needs: What to answer.
            evidence: (row, thing, patch), the answer to `EvidenceShare`.
        """
        device = self.loaded.model.device
        rows = self.table[[self._row[image_id] for image_id in image_ids]]
        values: dict[Need, Tensor] = {}
        for need in needs:
            match need:
                case ClsRows():
                    layers = list(self.loaded.adapter.layers(need))
                    values[need] = rows["cls_rows"][:, layers].unflatten(
                        2, (-1, self.loaded.adapter.tower.grid.patches)
                    )
                case Fingerprint():
                    values[need] = rows["fingerprint"]
                case EvidenceShare():
                    values[need] = evidence
                case _:
                    raise UnsupportedNeed(f"{need} is not kept among the encodings")
        on_device = {need: value.to(device) for need, value in values.items()}
        features = rows["features"].to(device, self.loaded.model.dtype)
        return features, Trace(on_device, self.loaded.adapter.tower.grid, len(image_ids))


def _write(loaded: LoadedModel, images: Mapping[str, Image], folder: Path) -> None:
    ids = list(images)
    first = next(_encoded(loaded, images, ids[:1]))
    columns = {"image_id": Value("string"), "fingerprint": Value("int64")}
    columns |= {name: Array2D(first[name].shape, "float32") for name in ("features", "cls_rows") if name in first}
    with _without_progress_bars():  # a study has its own
        table = Dataset.from_generator(
            _encoded,
            features=Features(columns),
            gen_kwargs={"loaded": loaded, "images": images, "ids": ids},
            cache_dir=str(folder / "scratch"),
            fingerprint=folder.name,
        )
        table.save_to_disk(str(folder))
    shutil.rmtree(folder / "scratch")


@contextmanager
def _without_progress_bars() -> Iterator[None]:
    shown = not are_progress_bars_disabled()
    disable_progress_bars()
    try:
        yield
    finally:
        if shown:
            enable_progress_bars()


def _encoded(loaded: LoadedModel, images: Mapping[str, Image], ids: list[str]) -> Iterator[dict[str, Any]]:
    """One row per picture; [CLS] rows as (layer, head x patch)."""
    rows = ClsRows(tuple(range(loaded.adapter.tower.depth)))
    needs = (Fingerprint(), rows) if loaded.adapter.tower.has_cls else (Fingerprint(),)
    for start in range(0, len(ids), _PICTURES):
        batch = ids[start : start + _PICTURES]
        with torch.inference_mode():
            features, trace = loaded.adapter.encode(loaded.pixels([images[i] for i in batch]), needs)
        for number, image_id in enumerate(batch):
            row = {"image_id": image_id, "fingerprint": int(trace[Fingerprint()][number])}
            row["features"] = features[number].float().cpu().numpy()
            if loaded.adapter.tower.has_cls:
                row["cls_rows"] = trace[rows][number].flatten(1).cpu().numpy()
            yield row
