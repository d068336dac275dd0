"""A file of arrays per image, written group by group and mapped into memory."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

_TEXTS = ("image_id", "arrangement")
"""Names of the columns besides arrays."""


@dataclass(frozen=True, eq=False)
class ImageArrays:
    """Arrays of some images of one arrangement.

    Attributes:
        ids: The images.
        arrangement: Their arrangement, as text.
        arrays: Arrays by name, of shape (image,), or (image, row, column) with as many columns in every group.
    """

    ids: Sequence[str]
    arrangement: str
    arrays: Mapping[str, np.ndarray]

    @property
    def batch(self) -> pa.RecordBatch:
        """The arrays as Arrow keeps them."""
        columns: list[Any] = [pa.array(self.ids), pa.array([self.arrangement] * len(self.ids))]
        fields = [pa.field(name, column.type) for name, column in zip(_TEXTS, columns, strict=True)]
        for name, array in self.arrays.items():
            flat = pa.array(array.ravel())
            if array.ndim > 1:
                ends = np.arange(len(array) + 1) * array[0].size
                flat = pa.LargeListArray.from_arrays(pa.array(ends), flat)
            columns.append(flat)
            fields.append(pa.field(name, flat.type, metadata={"columns": str(math.prod(array.shape[2:]))}))
        return pa.RecordBatch.from_arrays(columns, schema=pa.schema(fields))


class ArrayFile:
    """The arrays of images in a file.

    Attributes:
        arrangements: The arrangement of each image, as text.
    """

    def __init__(self, path: Path) -> None:
        self._reader = pa.ipc.open_file(pa.memory_map(str(path)))
        self._place: dict[str, tuple[int, int]] = {}
        self.arrangements: dict[str, str] = {}
        for number in range(self._reader.num_record_batches):
            group = self._reader.get_batch(number)
            ids, arrangement = group.column("image_id").to_pylist(), group.column("arrangement")[0].as_py()
            self._place.update({image_id: (number, row) for row, image_id in enumerate(ids)})
            self.arrangements.update(dict.fromkeys(ids, arrangement))

    def rows(self, ids: Sequence[str]) -> dict[str, Tensor]:
        """Returns the arrays of images of one arrangement, by name."""
        places = [self._place[image_id] for image_id in ids]
        groups = {number: self._arrays(number) for number in {number for number, _ in places}}
        return {
            name: torch.from_numpy(np.stack([groups[number][name][row] for number, row in places]))
            for name in groups[places[0][0]]
        }

    def _arrays(self, number: int) -> dict[str, np.ndarray]:
        """Returns the arrays of a group, which are not read before they are used."""
        group: Any = self._reader.get_batch(number)
        arrays: dict[str, np.ndarray] = {}
        for field in group.schema:
            if field.name not in _TEXTS:
                column = group.column(field.name)
                if pa.types.is_large_list(column.type):
                    width = int(field.metadata[b"columns"])
                    arrays[field.name] = column.values.to_numpy().reshape(len(group), -1, width)
                else:
                    arrays[field.name] = column.to_numpy()
        return arrays


def write(path: Path, groups: Iterator[ImageArrays]) -> bool:
    """Writes arrays of images, one group after the other; returns whether there were any.

    Raises:
        ValueError: A group has other names, types or numbers of columns than the first.
    """
    first = next(groups, None)
    if first is None:
        return False
    schema = first.batch.schema
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_file(file, schema) as writer:
        for group in chain([first], groups):
            if not (batch := group.batch).schema.equals(schema, check_metadata=True):
                raise ValueError(f"images {', '.join(group.ids)}: expected arrays like those of {first.ids[0]}")
            writer.write_batch(batch)
    return True
