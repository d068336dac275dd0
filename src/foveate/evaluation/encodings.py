"""Vision features and [CLS] rows of all layers, computed once per model and data set and reused by every evaluation."""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from functools import cache, cached_property, partial
from pathlib import Path

import torch
from filelock import FileLock
from jaxtyping import Float
from PIL.Image import Image
from torch import Tensor

from foveate.core.arrangement import Arrangement, Grid
from foveate.core.compression import Compression
from foveate.core.contracts import ImageBatch, Reduction
from foveate.core.errors import DataError
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
from foveate.evaluation.array_file import ArrayFile, ImageArrays, write
from foveate.evaluation.memory import InParts
from foveate.models.backbone.adapter import ImageInputs
from foveate.models.backbone.grouping import group_by_shape
from foveate.models.loading.load import LoadedModel
from foveate.models.runtime.images import LiveImages, NeedContext, Texts, resolve_need, with_extra_needs

Media = Mapping[str, Image | Clip]
"""Images, or the frames of videos, by ID."""
_IMAGES = 16  # per pass of the tower
_SUFFIX = ".arrow"
_Prepared = tuple[list[str], ImageInputs, list[Arrangement]]
"""IDs, model inputs and arrangements of images that one call has prepared."""


class Encodings:
    """The vision tower's output for every image and video of a data set, on disk.

    Attributes:
        replayed: Whether the stored output is used; otherwise the tower runs again.
    """

    def __init__(self, loaded: LoadedModel, images: Media, path: Path | None = None) -> None:
        self.loaded, self.images = loaded, images
        self.replayed = True
        self._file = ArrayFile(path) if path else None
        read = cache(_read)
        written = self._file.arrangements if self._file else {}
        self.arrangements = {image_id: read(text) for image_id, text in written.items()}

    @classmethod
    def of(cls, loaded: LoadedModel, images: Media, path: Path, skip: bool = False) -> "Encodings":
        """Opens the encodings `<path>.<checksum>.arrow`, and computes them if they do not exist.

        Only a complete file has that name; a second process waits for the first. A file whose content does not have
        the checksum is quarantined, so every process reads all of it once.

        Args:
            loaded: The model.
            images: Images and videos by ID; none if no question is about one, and then nothing is stored.
            path: Path of the file, without the checksum.
            skip: Whether images that cannot be decoded are left out; otherwise they are an error.

        Raises:
            DataError: An image, or with `skip` every image, cannot be decoded, or the image processor refuses it.
        """
        if not images and not stored(path):
            return cls(loaded, images)
        path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{path}.lock"):
            for stale in path.parent.glob(f".{path.name}.*"):  # of a process that was killed
                remove(stale)
            for damaged in (found for found in stored(path) if not intact(found)):
                quarantine(damaged)
            if not stored(path):
                with checksummed(path.parent, path.name, _SUFFIX) as unfinished:
                    if not write(unfinished, _encoded(loaded, images, skip)):
                        raise DataError(f"none of {len(images)} images can be decoded")
        encodings = cls(loaded, images, *stored(path))
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
        return image_id in self.arrangements

    def live(self, image_ids: Sequence[str]) -> LiveImages:
        """Returns images for which the tower runs."""
        return self.loaded.images([self.images[image_id] for image_id in image_ids])

    def rows(self, image_ids: Sequence[str]) -> dict[str, Tensor]:
        """Returns the stored numbers of images of one arrangement, by name."""
        if self._file is None:
            raise KeyError(f"{image_ids[0]}: no images were encoded")
        return self._file.rows(image_ids)


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
            live_sources, trace = self.encodings.live(self.ids).encode(of_tower)
            sources, values = live_sources if sources is None else sources, values | trace.answers(of_tower)
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


def stored(path: Path) -> list[Path]:
    """Returns the file of encodings, at most one, which is complete; see `Encodings.of`."""
    return list(path.parent.glob(f"{path.name}.????????????????{_SUFFIX}"))  # the checksum


def _encoded(loaded: LoadedModel, images: Media, skip: bool) -> Iterator[ImageArrays]:
    """Yields what is stored of images, as many at once as memory suffices for."""
    parts = InParts("images", "encoded")
    for opened in _opened(images, bar(images, "image", "encoding"), skip):
        work = partial(_encoded_batch, loaded, opened, skip=skip)
        for groups in parts.run(tuple(opened), work, lambda image_id: f"image {image_id!r}"):
            yield from groups


def _encoded_batch(loaded: LoadedModel, opened: Media, ids: Sequence[str], skip: bool) -> list[ImageArrays]:
    """Returns what is stored of those of some opened images that the model's image processor accepts."""
    some = {image_id: opened[image_id] for image_id in ids}
    try:
        prepared = _prepared(loaded, some)
    except DataError:
        prepared = _each_prepared(loaded, some, skip)
    return [group for some in prepared for group in _encoded_together(loaded, *some)]


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
) -> Iterator[ImageArrays]:
    """Yields what is stored of images that were prepared in one call, arrangement by arrangement."""
    adapter = loaded.adapter.of(arrangements[0])
    rows = ClsRows(tuple(range(adapter.tower.depth)))
    needs = [*PIXEL_STATISTICS, *([rows] if adapter.tower.has_cls else []), *adapter.extra_needs]
    for group in group_by_shape(arrangements):
        some = inputs if len(group) == len(names) else adapter.chosen(inputs, group, arrangements)
        with torch.inference_mode():
            fingerprints = adapter.fingerprints(some, arrangements[group[0]])
            sources, values = adapter.encode(some, arrangements[group[0]], needs)
            arrays = {"fingerprint": fingerprints, "features": sources.float()}
            arrays["pixel_statistics"] = torch.stack([values[need] for need in PIXEL_STATISTICS], 2)
            if adapter.tower.has_cls:  # (image, layer, head, patch)
                arrays["cls_rows"] = values[rows].flatten(1, 2).transpose(1, 2)
            if adapter.deepstack_levels:  # (image, level, patch, dim)
                arrays["deepstack"] = values[Deepstack()].transpose(1, 2).flatten(2).float()
        text = json.dumps(asdict(arrangements[group[0]]))
        yield ImageArrays(
            [names[index] for index in group], text, {name: value.cpu().numpy() for name, value in arrays.items()}
        )


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
