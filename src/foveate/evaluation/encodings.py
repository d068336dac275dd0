"""Vision features and [CLS] rows of all layers: computed once per model and data, replayed by every configuration."""

import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from datasets import (
    Array2D,
    Dataset,
    Value,
    are_progress_bars_disabled,
    disable_progress_bars,
    enable_progress_bars,
)
from datasets import Features as Columns
from datasets.exceptions import DatasetGenerationError
from filelock import FileLock
from jaxtyping import Float
from PIL.Image import Image
from torch import Tensor

from foveate.core.contracts import Pictures, Reduction
from foveate.core.errors import DataError
from foveate.core.needs import AlignedPatches, ClsRows, EvidenceShare, Features, Fingerprint, Need
from foveate.core.types import Compression, Trace
from foveate.models.load import LoadedModel
from foveate.models.pictures import Texts, told

_PICTURES = 16  # encoded at a time


class Encodings:
    """The tower's view of every picture of a data set, on disk."""

    def __init__(self, loaded: LoadedModel, images: Mapping[str, Image], table: Dataset) -> None:
        self.loaded, self.images, self.table = loaded, images, table.with_format("torch")
        self._row = {image_id: row for row, image_id in enumerate(table["image_id"])}

    @classmethod
    def of(cls, loaded: LoadedModel, images: Mapping[str, Image], folder: Path, skip: bool = False) -> "Encodings":
        """Opens the encodings in `folder`, after making them if need be.

        Only a finished table ever carries the name; a second process waits for the first.

        Args:
            loaded: The model.
            images: By id.
            folder: Where the encodings are.
            skip: Whether pictures that cannot be decoded are left out, and not an error.

        Raises:
            DataError: A picture, or with `skip` every picture, cannot be decoded.
        """
        folder.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{folder}.lock"):
            if not folder.exists():
                unfinished = folder.with_suffix(".part")
                shutil.rmtree(unfinished, ignore_errors=True)
                _write(loaded, images, unfinished, skip)
                unfinished.rename(folder)
        encodings = cls(loaded, images, Dataset.load_from_disk(str(folder)))
        if not skip:  # but whoever made them may have skipped
            _opened(images, [image_id for image_id in images if image_id not in encodings], skip)
        return encodings

    def pictures(self, image_ids: Sequence[str], evidence: Tensor, texts: Texts) -> "EncodedPictures":
        """The given pictures, one per row; they may repeat.

        Args:
            image_ids: One per row.
            evidence: (row, thing, patch), the answer to `EvidenceShare`.
            texts: What is asked, row by row.
        """
        return EncodedPictures(self, image_ids, evidence, texts)

    def __contains__(self, image_id: str) -> bool:
        return image_id in self._row

    def pixels(self, image_ids: Sequence[str]) -> Tensor:
        """What the tower is given of these pictures."""
        return self.loaded.pixels([self.images[image_id] for image_id in image_ids])

    def rows(self, image_ids: Sequence[str]) -> dict[str, Any]:
        """Stored columns."""
        return self.table[[self._row[image_id] for image_id in image_ids]]


class EncodedPictures(Pictures):
    """Pictures whose features and [CLS] rows are replayed; for all else the tower runs, once per picture."""

    def __init__(self, encodings: Encodings, image_ids: Sequence[str], evidence: Tensor, texts: Texts) -> None:
        self.encodings, self.evidence, self.texts = encodings, evidence, texts
        self.llava = encodings.loaded.adapter
        self.grid = self.llava.tower.grid
        self.ids = list(dict.fromkeys(image_ids))
        self.owner = torch.tensor([self.ids.index(image_id) for image_id in image_ids], device=self.llava.model.device)

    @cached_property
    def _rows(self) -> dict[str, Any]:
        return self.encodings.rows(self.ids)

    def encode(self, needs: Sequence[Need]) -> tuple[Tensor, Trace]:
        device, rows = self.llava.model.device, self._rows
        sources = rows["features"].to(device, self.llava.model.dtype)
        values: dict[Need, Tensor] = {}
        for need in needs:
            match need:
                case ClsRows():
                    layers = list(self.llava.layers(need))
                    values[need] = rows["cls_rows"][:, layers].unflatten(2, (-1, self.grid.patches))
                case Fingerprint():
                    values[need] = rows["fingerprint"]
                case Features():
                    patches = sources[:, : self.grid.patches]
                    values[need] = self.llava.project(patches) if need.projected else patches
        live = [need for need in needs if need not in values and not need.per_question]
        asked = [need for need in live if not isinstance(need, AlignedPatches)]
        if asked:
            values |= self.llava.encode(self.encodings.pixels(self.ids), asked)[1]
        companion = self.encodings.loaded.companion
        values |= {need: told(self.llava, need, sources, None, companion) for need in live if need not in values}
        values = {need: value.to(device)[self.owner] for need, value in values.items()}
        sources = sources[self.owner]
        for need in needs:
            if isinstance(need, EvidenceShare):
                values[need] = self.evidence.to(device)
            elif need not in values:
                values[need] = told(self.llava, need, sources, self.texts, companion)
        return sources, Trace(values, self.grid, len(self.owner))

    def project(self, features: Float[Tensor, "image token width"]) -> Float[Tensor, "image token dim"]:
        return self.llava.project(features)

    def reduced(self, reduction: Reduction, keep: int) -> tuple[Float[Tensor, "image token dim"], Compression]:
        features, compression = self.llava.reduced(self.encodings.pixels(self.ids), reduction, keep)
        mixing = compression.mixing
        mixing = None if mixing is None else mixing[self.owner]
        return features[self.owner], Compression(compression.origin[self.owner], mixing)


def _write(loaded: LoadedModel, images: Mapping[str, Image], folder: Path, skip: bool) -> None:
    ids = list(images)
    first = next((row for i in ids for row in _encoded(loaded, images, [i], skip)), None)
    if first is None:
        raise DataError(f"none of {len(ids)} pictures can be decoded")
    columns = {"image_id": Value("string"), "fingerprint": Value("int64")}
    columns |= {name: Array2D(first[name].shape, "float32") for name in ("features", "cls_rows") if name in first}
    with _without_progress_bars():  # a study has its own
        try:
            table = Dataset.from_generator(
                _encoded,
                features=Columns(columns),
                gen_kwargs={"loaded": loaded, "images": images, "ids": ids, "skip": skip},
                cache_dir=str(folder / "scratch"),
                fingerprint=folder.name,
            )
        except DatasetGenerationError as error:
            if isinstance(error.__cause__, DataError):
                raise error.__cause__ from None
            raise
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


def _encoded(loaded: LoadedModel, images: Mapping[str, Image], ids: list[str], skip: bool) -> Iterator[dict[str, Any]]:
    """One row per picture; [CLS] rows as (layer, head x patch)."""
    rows = ClsRows(tuple(range(loaded.adapter.tower.depth)))
    needs = (Fingerprint(), rows) if loaded.adapter.tower.has_cls else (Fingerprint(),)
    for start in range(0, len(ids), _PICTURES):
        opened = _opened(images, ids[start : start + _PICTURES], skip)
        if not opened:
            continue
        with torch.inference_mode():
            sources, values = loaded.adapter.encode(loaded.pixels(list(opened.values())), needs)
        for number, image_id in enumerate(opened):
            row = {"image_id": image_id, "fingerprint": int(values[Fingerprint()][number])}
            row["features"] = sources[number].float().cpu().numpy()
            if loaded.adapter.tower.has_cls:
                row["cls_rows"] = values[rows][number].flatten(1).cpu().numpy()
            yield row


def _opened(images: Mapping[str, Image], ids: list[str], skip: bool) -> dict[str, Image]:
    """Those that can be decoded."""
    opened: dict[str, Image] = {}
    for image_id in ids:
        try:
            opened[image_id] = images[image_id]
        except DataError:
            if not skip:
                raise
    return opened
