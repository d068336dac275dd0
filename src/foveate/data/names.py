"""Names of data sets, available without importing the modules that read them."""

import os
import re
from pathlib import Path
from typing import Literal, NamedTuple, get_args

from foveate.core.documents import OWN_DATA, page
from foveate.core.errors import DataError, message_of, shown
from foveate.core.plugins import installed_plugins

FramesAs = Literal["video", "images"]
"""The form in which a video is given to a model: as a video, or its frames as images."""
FRAMES = 8
"""Number of frames that are shown of a video, unless another is given."""
SCENES, CLIPS = "scenes", "clips"
GENERATED = (SCENES, CLIPS)
"""Names of generated data: images, and videos."""
SCENE_GRIDS = ("12", "16")
"""Patches per side of scenes and of frames of clips, as in scenes:16; the first is the default."""
NAMES = (
    *("ai2d", "chair", "chartqa", "docvqa", "egoschema", "gqa", "hallusionbench", "infographicvqa", "longvideobench"),
    *("mathvista", "mlvu", "mmbench", "mmbench_cn", "mme", "mmmu", "mmstar", "mmvet", "mvbench", "ocrbench", "pope"),
    *("realworldqa", "refcoco", "refcoco+", "refcocog", "scienceqa", "seedbench", "textvqa", "textvqa_ocr"),
    *("videomme", "videomme_subtitles", "vizwiz", "vqav2"),
)
"""Names of the built-in benchmarks."""
REGISTERED: set[str] = set()
"""Names of registered benchmarks."""
TABLE = "table"
"""Name of all tables of the user's own; their content identifies them."""
TABLE_ENDINGS = (".jsonl", ".csv", ".parquet")
TABLE_SPLIT = "all"
"""Split of a table that is the only one."""
TableMetric = Literal["exact", "vqa", "f1", "choice", "anls", "relaxed"]


class Table(NamedTuple):
    """The name of a table of the user's own: `<path>` or `<path>:<metric>`.

    Attributes:
        path: Path of a file, of a folder of tables, or of a folder written by `save_to_disk`.
        metric: Rule that scores the answers; None means that the answers decide.
    """

    path: str
    metric: TableMetric | None = None

    @property
    def location(self) -> Path:
        """The path, with the home of a user.

        Raises:
            DataError: There is nothing at this path.
        """
        try:
            found = Path(self.path).expanduser()
            if found.exists():
                return found
        except (OSError, RuntimeError, ValueError) as error:  # too long, of an unknown user, or with a null byte
            raise DataError(f"data {shown(self.path)} is not a valid path: {message_of(error)}") from error
        raise DataError(f"data {shown(self.path)}: there is no such file or folder; expected a table, {page(OWN_DATA)}")

    @property
    def label(self) -> str:
        """Name of the table in names of studies: that of its file, and the metric if it is given."""
        path = Path(os.path.abspath(os.path.expanduser(self.path)))
        name = path.stem if path.suffix in TABLE_ENDINGS else path.name
        return re.sub(r"[^\w.+-]", "_", name)[:60] + (f"_{self.metric}" if self.metric else "")


def known_names() -> tuple[str, ...]:
    """Returns the names of all data sets: generated, built-in, registered and installed benchmarks."""
    return tuple(dict.fromkeys((*GENERATED, *NAMES, *sorted(REGISTERED), *installed_plugins("foveate.benchmarks"))))


def parsed(name: str) -> tuple[str, str | None]:
    """Returns the name of a data set and what follows its colon, if anything: a location, or the patches of scenes.

    The name of a table of the user's own is `TABLE`, and its location the path without the metric.

    Raises:
        DataError: The data set or the metric of a table is unknown, the location is empty, or generated data are given
            a location.
    """
    known, given, location = name.partition(":")
    if known not in known_names():
        if table := table_of(name):
            return TABLE, table.path
        raise DataError(
            f"data {known!r} is unknown; known: {', '.join(known_names())}; or a table of your own, a path that ends "
            f"in one of {' '.join(TABLE_ENDINGS)}, or a folder ({page(OWN_DATA)})"
        )
    if given and known in GENERATED and location not in SCENE_GRIDS:
        raise DataError(
            f"data {name!r}: {known} are generated, not read: leave out {given}{location}, or give their patches per "
            f"side: {', '.join(SCENE_GRIDS)}"
        )
    if given and not location:
        raise DataError(f"data {name!r}: expected a path or hub ID after the colon")
    return known, location or None


def table_of(name: str) -> Table | None:
    """Returns the table of the user's own that a name of a data set means; None if it means no table.

    Raises:
        DataError: The metric is unknown.
    """
    start, colon, _ = name.partition(":")
    misspelt = colon and re.fullmatch(r"[\w+-]+", start) and not _is_table(start)  # such as pop:pope.parquet
    if start in known_names() or misspelt:
        return None
    path, _, given = name.rpartition(":")
    metrics: dict[str, TableMetric] = {metric: metric for metric in get_args(TableMetric)}
    if _is_table(path) and given in metrics:
        return Table(path, metrics[given])
    if _is_surely_table(path) and not _is_surely_table(name):
        raise DataError(f"data {name!r}: metric {given!r} is unknown; known: {', '.join(metrics)}")
    return Table(name) if _is_table(name) else None


def shown_name(name: str) -> str:
    """Returns the name of a data set in tables and figures, without its location; no table has that of a benchmark."""
    table = table_of(name)
    return f"table {table.label}" if table else parsed(name)[0]


def _is_table(path: str) -> bool:
    return _is_surely_table(path) or path.startswith(("./", "../", "/", "~"))


def _is_surely_table(path: str) -> bool:
    return path.endswith(TABLE_ENDINGS) or os.path.isdir(os.path.expanduser(path))


def check_limit(limit: int | None) -> None:
    """Checks a limit on the number of questions.

    Raises:
        DataError: The limit is below 1.
    """
    if limit is not None and limit < 1:
        raise DataError(f"limit={limit}: expected at least 1 question; leave the limit out for the whole split")
