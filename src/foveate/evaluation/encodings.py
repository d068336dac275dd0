"""Vision features and [CLS] rows of all layers, computed once per model and data set and reused by every evaluation."""

import json
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from functools import cache, cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import (
    Array2D,
    Dataset,
    Value,
)
from datasets import Features as Columns
from datasets.exceptions import DatasetGenerationError
from filelock import FileLock
from jaxtyping import Float
from PIL.Image import Image
from torch import Tensor

from foveate.core.arrangement import Arrangement, Grid
from foveate.core.compression import Compression
from foveate.core.contracts import ImageBatch, Reduction
from foveate.core.errors import DataError, FoveateError
from foveate.core.needs import (
    PIXEL_STATISTICS,
    AlignedPatches,
    ClsRows,
    Deepstack,
    EvidenceShare,
    Features,
    Fingerprint,
    Need,
    PixelStatistic,
    Sensitivity,
)
from foveate.core.progress import bar
from foveate.core.storage import checksummed, intact, quarantine, remove
from foveate.core.trace import Trace
from foveate.data.clip import Clip
from foveate.data.stored import without_progress_bars
from foveate.evaluation.memory import InParts
from foveate.models.backbone.adapter import ImageInputs
from foveate.models.backbone.grouping import group_by_shape
from foveate.models.loading.load import LoadedModel
from foveate.models.runtime.images import LiveImages, NeedContext, Texts, resolve_need, with_extra_needs

Media = Mapping[str, Image | Clip]
"""Images, or the frames of videos, by ID."""
_IMAGES = 16  # per pass of the tower
_Prepared = tuple[list[str], ImageInputs, list[Arrangement]]
"""IDs, model inputs and arrangements of images that one call has prepared."""


class Encodings:
    """The vision tower's output for every image and video of a data set, on disk.

    Attributes:
        replayed: Whether the stored output is used; otherwise the tower runs again.
    """

    def __init__(self, loaded: LoadedModel, images: Media, table: Dataset) -> None:
        self.loaded, self.images, self.table = loaded, images, table.with_format("arrow")
        self.replayed = True
        self._row = {image_id: row for row, image_id in enumerate(table["image_id"])}
        read = cache(_read)
        written = zip(table["image_id"], table["arrangement"], strict=True)
        self.arrangements = {image_id: read(text) for image_id, text in written}

    @classmethod
    def of(cls, loaded: LoadedModel, images: Media, folder: Path, skip: bool = False) -> "Encodings":
        """Opens the encodings `<folder>.<checksum>`, and computes them if they do not exist.

        Only a complete table has that name; a second process waits for the first. A table whose content does not have
        the checksum is quarantined, so every process reads all of it once.

        Args:
            loaded: The model.
            images: Images and videos by ID; none if no question is about one, and then nothing is stored.
            folder: Folder of the encodings, without the checksum.
            skip: Whether images that cannot be decoded are left out; otherwise they are an error.

        Raises:
            DataError: An image, or with `skip` every image, cannot be decoded, or the image processor refuses it.
        """
        if not images and not stored(folder):
            return cls(loaded, images, Dataset.from_dict({"image_id": [], "arrangement": []}))
        folder.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{folder}.lock"):
            for stale in folder.parent.glob(f".{folder.name}.*"):  # of a process that was killed
                remove(stale)
            for damaged in (found for found in stored(folder) if not intact(found)):
                quarantine(damaged)
            if not stored(folder):
                with checksummed(folder.parent, folder.name) as unfinished:
                    _write(loaded, images, unfinished, skip)
        encodings = cls(loaded, images, Dataset.load_from_disk(str(stored(folder)[0])))
        if not skip:  # an earlier evaluation with `skip` may have stored them
            for image_id in images:
                if image_id not in encodings:
                    _each_prepared(loaded, {image_id: images[image_id]}, skip)
        return encodings

    def batch(self, image_ids: Sequence[str], evidence: Tensor, texts: Texts) -> "EncodedImages":
        """Returns images of one arrangement, which may repeat.

        Args:
            image_ids: Image of each row.
            evidence: The answer to `EvidenceShare`, shape (row, thing, patch).
            texts: Prompt and question of each row.
        """
        return EncodedImages(self, image_ids, evidence, texts)

    def __contains__(self, image_id: str) -> bool:
        return image_id in self._row

    def live(self, image_ids: Sequence[str]) -> LiveImages:
        """Returns images for which the tower runs."""
        return self.loaded.images([self.images[image_id] for image_id in image_ids])

    def rows(self, image_ids: Sequence[str]) -> dict[str, Tensor]:
        """Returns the stored numbers of images of one arrangement, by column."""
        found: Any = self.table[[self._row[image_id] for image_id in image_ids]]
        return {
            name: _tensor(found[name], kind.shape[1] if isinstance(kind, Array2D) else None)
            for name, kind in self.table.features.items()
            if name not in ("image_id", "arrangement")
        }


class EncodedImages(ImageBatch):
    """Images with stored features and [CLS] rows; for other needs the tower runs once per image."""

    def __init__(self, encodings: Encodings, image_ids: Sequence[str], evidence: Tensor, texts: Texts) -> None:
        self.encodings, self.evidence, self.texts = encodings, evidence, texts
        self.arrangement = encodings.arrangements[image_ids[0]]
        self.adapter = encodings.loaded.adapter.of(self.arrangement)
        self.ids = list(dict.fromkeys(image_ids))
        self.owner = torch.tensor(
            [self.ids.index(image_id) for image_id in image_ids], device=self.adapter.model.device
        )

    @cached_property
    def _rows(self) -> dict[str, Tensor]:
        return self.encodings.rows(self.ids)

    def encode(self, needs: Sequence[Need]) -> tuple[Tensor, Trace]:
        adapter, device = self.adapter, self.adapter.model.device
        needs = with_extra_needs(adapter, needs)
        sources, values = self._replayed(needs) if self.encodings.replayed else (None, {})
        live = [need for need in needs if need not in values and not need.per_question]
        of_tower = [need for need in live if not isinstance(need, AlignedPatches | Sensitivity)]
        if of_tower or sources is None:
            live_sources, found = adapter.encode(self.encodings.live(self.ids).images, self.arrangement, of_tower)
            sources, values = live_sources if sources is None else sources, values | found
        companion = self.encodings.loaded.companion
        without_texts = NeedContext(adapter, self.arrangement, None, companion)
        values |= {need: resolve_need(without_texts, need, sources, values) for need in live if need not in values}
        values = {need: value.to(device)[self.owner] for need, value in values.items()}
        sources = sources[self.owner]
        with_texts = NeedContext(adapter, self.arrangement, self.texts, companion)
        for need in needs:
            if isinstance(need, EvidenceShare):
                values[need] = self.evidence.to(device)
            elif need not in values:
                values[need] = resolve_need(with_texts, need, sources, values)
        return sources, Trace.recorded(values, self.arrangement, len(self.owner))

    def _replayed(self, needs: Sequence[Need]) -> tuple[Tensor, dict[Need, Tensor]]:
        """Returns the images' sources and the answers that are stored."""
        adapter, rows = self.adapter, self._rows
        sources = rows["features"].to(adapter.model.device, adapter.model.dtype)
        patches = self.arrangement.patches
        values: dict[Need, Tensor] = {}
        for need in needs:
            match need:
                case ClsRows():
                    found = rows["cls_rows"].unflatten(2, (adapter.tower.depth, -1))
                    values[need] = found[:, :, list(adapter.layers(need))].permute(0, 2, 3, 1)
                case Deepstack():
                    values[need] = rows["deepstack"].unflatten(2, (adapter.deepstack_levels, -1)).movedim(2, 1)
                case Fingerprint():
                    values[need] = rows["fingerprint"]
                case PixelStatistic():
                    values[need] = rows["pixel_statistics"][:, :, PIXEL_STATISTICS.index(need)]
                case Features(projected=True):
                    values[need] = adapter.project(sources[:, :patches])
                case Features() if not adapter.packs_projected:
                    values[need] = sources[:, :patches]
        return sources, values

    def project(self, features: Float[Tensor, "image token width"]) -> Float[Tensor, "image token dim"]:
        return self.adapter.project(features)

    def reduced(self, reduction: Reduction, keep: int) -> tuple[Float[Tensor, "image token dim"], Compression]:
        features, compression = self.encodings.live(self.ids).reduced(reduction, keep)
        mixing = compression.mixing
        mixing = None if mixing is None else mixing[self.owner]
        return features[self.owner], Compression(compression.origin[self.owner], mixing)


def _tensor(column: Any, width: int | None) -> Tensor:  # noqa: ANN401 (pyarrow has no types)
    """Returns a column of numbers, or of arrays of one width, as one tensor; `datasets` converts row by row."""
    if width is None:
        return torch.tensor(column.to_numpy())
    parts = [chunk.storage.flatten().flatten().to_numpy() for chunk in column.chunks]  # lists have 32-bit offsets
    return torch.from_numpy(np.concatenate(parts)).view(len(column), -1, width)


def stored(folder: Path) -> list[Path]:
    """Returns the encodings of a folder's name, at most one, which are complete; see `Encodings.of`."""
    return list(folder.parent.glob(f"{folder.name}.????????????????"))  # the checksum


def _write(loaded: LoadedModel, images: Media, folder: Path, skip: bool) -> None:
    ids = tuple(images)  # of a list, `datasets` would ask for each image by itself
    first = next((row for i in ids for row in _encoded(loaded, images, (i,), skip)), None)
    if first is None:
        raise DataError(f"none of {len(ids)} images can be decoded")
    columns = {"image_id": Value("string"), "fingerprint": Value("int64"), "arrangement": Value("string")}
    arrays = {name: value for name, value in first.items() if name not in columns}
    columns |= {name: Array2D((None, value.shape[1]), "float32") for name, value in arrays.items()}
    with without_progress_bars():
        try:
            table = Dataset.from_generator(
                _encoded,
                features=Columns(columns),
                gen_kwargs={"loaded": loaded, "images": images, "ids": ids, "skip": skip},
                cache_dir=str(folder / "scratch"),
                fingerprint=folder.name,
            )
        except DatasetGenerationError as error:
            if isinstance(error.__cause__, FoveateError):
                raise error.__cause__ from None
            raise
        table.save_to_disk(str(folder))
    shutil.rmtree(folder / "scratch")


def _encoded(loaded: LoadedModel, images: Media, ids: tuple[str, ...], skip: bool) -> Iterator[dict[str, Any]]:
    """Yields one row per image, with arrays of shape (patch, values)."""
    parts = InParts("images", "encoded")
    for opened in _opened(images, bar(ids, "image", "encoding"), skip):
        work = partial(_encoded_batch, loaded, opened, skip=skip)
        for rows in parts.run(tuple(opened), work, lambda image_id: f"image {image_id!r}"):
            yield from rows


def _encoded_batch(loaded: LoadedModel, opened: Media, ids: Sequence[str], skip: bool) -> list[dict[str, Any]]:
    """Returns the rows of some of the opened images that the model's image processor accepts."""
    some = {image_id: opened[image_id] for image_id in ids}
    try:
        prepared = _prepared(loaded, some)
    except DataError:
        prepared = _each_prepared(loaded, some, skip)
    return [row for group in prepared for row in _encoded_together(loaded, *group)]


def _prepared(loaded: LoadedModel, opened: Media) -> list[_Prepared]:
    """Returns the images in groups that one call each can prepare.

    Raises:
        DataError: The model's image processor refuses an image.
    """
    ids, images = list(opened), list(opened.values())
    return [
        ([ids[row] for row in rows], *loaded.media_inputs([images[row] for row in rows]))
        for rows in loaded.media_together(images)
    ]


def _each_prepared(loaded: LoadedModel, opened: Media, skip: bool) -> list[_Prepared]:
    """Returns the images that the model's image processor accepts, each in a group of its own."""
    prepared: list[_Prepared] = []
    for image_id, image in opened.items():
        try:
            prepared.append(([image_id], *loaded.media_inputs([image])))
        except DataError as error:
            if not skip:
                raise DataError(f"image {image_id!r}: {error}") from error
    return prepared


def _encoded_together(
    loaded: LoadedModel, names: Sequence[str], inputs: ImageInputs, arrangements: Sequence[Arrangement]
) -> Iterator[dict[str, Any]]:
    """Yields the rows of images that were prepared in one call."""
    adapter = loaded.adapter.of(arrangements[0])
    rows = ClsRows(tuple(range(adapter.tower.depth)))
    needs = [Fingerprint(), *PIXEL_STATISTICS, *([rows] if adapter.tower.has_cls else []), *adapter.extra_needs]
    for group in group_by_shape(arrangements):
        some = inputs if len(group) == len(names) else adapter.chosen(inputs, group, arrangements)
        with torch.inference_mode():
            sources, values = adapter.encode(some, arrangements[group[0]], needs)
        for number, index in enumerate(group):
            row = {"image_id": names[index], "fingerprint": int(values[Fingerprint()][number])}
            row["arrangement"] = json.dumps(asdict(arrangements[index]))
            row["features"] = sources[number].float().cpu().numpy()
            statistics = [values[need][number] for need in PIXEL_STATISTICS]
            row["pixel_statistics"] = torch.stack(statistics, 1).cpu().numpy()  # (patch, statistic)
            if adapter.tower.has_cls:  # (layer, head, patch)
                row["cls_rows"] = values[rows][number].flatten(0, 1).T.cpu().numpy()
            if adapter.deepstack_levels:  # (level, patch, dim)
                row["deepstack"] = values[Deepstack()][number].transpose(0, 1).flatten(1).float().cpu().numpy()
            yield row


def _opened(images: Media, ids: Iterable[str], skip: bool) -> Iterator[dict[str, Image | Clip]]:
    """Yields the images that can be decoded, as many as the tower takes at once; a video, which is large, by itself."""
    opened: dict[str, Image | Clip] = {}
    for image_id in ids:
        try:
            found = images[image_id]
        except DataError:
            if not skip:
                raise
            continue
        if isinstance(found, Clip):
            yield {image_id: found}
        else:
            opened[image_id] = found
        if len(opened) == _IMAGES:
            yield opened
            opened = {}
    if opened:
        yield opened


def _read(text: str) -> Arrangement:
    """Returns a stored arrangement."""
    found = json.loads(text)
    boxes = tuple((top, left, bottom, right) for top, left, bottom, right in found["boxes"])
    views = tuple(Grid(**view) for view in found["views"])
    times = found["frames"], tuple(found["seconds"])
    return Arrangement(views, boxes, tuple(found["separators"]), tuple(found["tiles"]), *times)
