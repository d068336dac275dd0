"""Published numbers that can be computed here: which method, budget, data set and number each one means."""

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from typing import Any, NamedTuple

from foveate.analysis.benchmarks import video_rows
from foveate.core.errors import DataError, UnsupportedModel
from foveate.data.names import known_names
from foveate.data.published import Published, all_published, everything, plain
from foveate.methods.registry import METHODS

_DATA = {
    **{"scienceqaimg": "scienceqa", "mmb": "mmbench", "mmbcn": "mmbench_cn", "seed": "seedbench", "seedi": "seedbench"},
    **{"popef1": "pope", "mmeperception": "mme", "mmecognition": "mme", "hallbench": "hallusionbench"},
    **{"refcocoplus": "refcoco+", "ocr": "ocrbench"},
    **video_rows.NAMES,
}
"""Data sets of benchmarks whose plain names in papers are others."""
_METHODS = {
    "visprunerr05": "vispruner",
    "pooling": "pool",
    "randompre": "random",
    "randomintra": "random_inside",
    "vanilla": "full",
    "pdrop": "pyramiddrop",
    **{f"dycokek0{merged}l3p07": "dycoke" for merged in (3, 5, 7)},
    "holitomwom": "holitom",
}
_ANSWERS = {"acc", "F1", "F1/acc", "score", "acc/score", "as named", "score/1000", "x/100", "perception score"} | {
    *("total score", "normalised score", "standard benchmark", "acc/score/%"),
    "acc (* = VizWiz val set instead of test)",
}
"""Metrics of answers; all others are averages over benchmarks, shares of the uncompressed model, or costs."""
_NUMBERS = {
    ("pope", "acc"): "accuracy",
    ("mme", "total score"): "perception and cognition",
    ("scienceqa", "ScienceQA-IMG"): "accuracy with an image",
    ("mme", "MME-Cognition"): "cognition",
    **{("videomme", f"VideoMME {length}"): length for length in ("short", "medium", "long")},
}
"""Names of our numbers by data set and metric or benchmark; for others the data set's first number."""
_ON_SERVERS = {"vqav2": "test-dev", "vizwiz": "test"}
"""Splits of published numbers whose answers are on a server."""
_JUDGED = {"mmvet": "GPT-4 grades it there", "mathvista": "GPT-4 reads the answers there"}
_FAMILIES = {
    "llava": "LLaVA-1.5",
    "llava_next": "LLaVA-NeXT",
    "llava_onevision": "LLaVA-OneVision",
    "qwen2_vl": "Qwen2-VL",
    "qwen2_5_vl": "Qwen2.5-VL",
    "qwen3_vl": "Qwen3-VL",
    "internvl": "InternVL",
}
"""Beginnings of the names of models in papers, by `model_type`."""
_ALIKE = 3  # numbers of a row that have to be another paper's before it counts as copied


Settings = tuple[tuple[str, Any], ...]
"""Options of a recipe by name."""


class Row(NamedTuple):
    """A published number that can be computed here.

    Attributes:
        published: The number with its source.
        value: Its value as printed.
        method: Our name of the method.
        tokens: The budget: a count, a share of the tokens, or None without compression.
        data: Our name of the data set.
        number: Our name of the number; empty means the data set's first one.
        scale: What our number is multiplied by, if it is a share.
        incomparable: Reason why both numbers are not the same measure, or an empty string.
        copied: Other papers that print the same numbers of this method at this budget, with how many.
        settings: Options of our recipe besides the budget.
        frames: Frames of each video; 0 for images, and if it is not known.
    """

    published: Published
    value: float
    method: str
    tokens: int | float | None
    data: str
    number: str
    scale: float
    incomparable: str
    copied: str
    settings: Settings = ()
    frames: int = 0

    @property
    def cell(self) -> tuple[str, int | float | None, Settings]:
        """The run on the data set that gives the number: method, budget and options."""
        return self.method, self.tokens, self.settings


class Wanted(NamedTuple):
    """The published numbers of a paper for one model.

    Attributes:
        paper: The paper.
        model: The model, as the paper names it.
        rows: The numbers that can be computed here.
        refused: The other numbers, by the reason.
        by_others: Whether the rows are those of other papers about the paper's method, because it has none itself.
    """

    paper: str
    model: str
    rows: tuple[Row, ...]
    refused: Mapping[str, Sequence[Published]]
    by_others: bool


def wanted(paper: str, model_type: str, checkpoint: str, frames: int = 0) -> Wanted:
    """Returns the numbers of a paper for the family of a checkpoint.

    A paper without such numbers of a method stands for its own method: its rows are those of other papers about it.

    Args:
        paper: Name of the paper, as `paper_named` returns it.
        model_type: The checkpoint's `model_type`.
        checkpoint: Name of the checkpoint; its size, such as 7b, decides between models of one family.
        frames: Frames of each video, which decides between rows of a model with other numbers of them.

    Raises:
        UnsupportedModel: The paper has no such number for a model of this family.
    """
    own = [row for row in everything() if row.paper == paper]
    about = [row for row in everything() if _is_own(row.method, paper)]
    for rows, by_others in ((own, False), (about, True)):
        known = [row for row in rows if isinstance(found := _parsed(row), Row) and found.method != "full"]
        model = _model_of(known, model_type, checkpoint, frames)
        if model:
            found = _sorted_out(paper, model, [row for row in rows if _base(row.model) == model], by_others)
            return found if by_others else _with_other_models(found, rows)
    models = dict.fromkeys(_base(row.model) for row in (*own, *about) if isinstance(_parsed(row), Row))
    there = f"has numbers of {', '.join(models)}" if models else "has averages, shares and costs only"
    raise UnsupportedModel(
        f"paper {paper!r} {there}: none that can be computed with {checkpoint}, whose model_type is {model_type!r}"
    )


def study_name(paper: str) -> str:
    """Returns the default name of the study of a paper's rows."""
    return f"reproduce_{re.sub(r'[^a-z0-9]+', '_', paper.lower()).strip('_')}"


def all_tokens(model: str) -> int | None:
    """Returns how many tokens an image has without compression, as papers about a model print it; None if by size."""
    counts = [row.tokens_kept for row in all_published() if row.method == "full" and _base(row.model) == model]
    return next((int(count) for count in counts if count.isdecimal()), None)


def chosen(found: Wanted, data: Sequence[str], methods: Sequence[str], keep: Sequence[int | float]) -> Wanted:
    """Returns the rows of some data sets, methods and budgets; those without compression have any budget.

    Args:
        found: The numbers of a paper.
        data: Names of data sets; empty means all.
        methods: Our names of methods; empty means all.
        keep: Budgets, as the paper counts them; empty means all.

    Raises:
        DataError: No row is left, or one of the names is in no row.
    """
    for names, known, what in (
        (data, {row.data for row in found.rows}, "data"),
        (methods, {row.method for row in found.rows}, "method"),
        (keep, {row.tokens for row in found.rows if row.tokens is not None}, "keep"),
    ):
        if strange := [name for name in names if name not in known]:
            raise DataError(
                f"{what} {strange[0]} is not in the numbers of paper {found.paper!r} for {found.model}; there are: "
                f"{', '.join(sorted(map(str, known)))}"
            )
    rows = tuple(
        row
        for row in found.rows
        if (not data or row.data in data)
        and (not methods or row.method in methods or row.method == "full")
        and (not keep or row.tokens in (None, *keep))
    )
    return found._replace(rows=rows)


def without_folders(found: Wanted) -> Wanted:
    """Returns the numbers that need no folder of videos; the others count as not run.

    Raises:
        DataError: All of them need one.
    """
    named = [name for name in video_rows.DATA if any(row.data == name for row in found.rows)]
    if not named:
        return found
    tasks = " ".join(f"{name}:FOLDER" for name in named)
    if not (rows := tuple(row for row in found.rows if row.data not in named)):
        raise DataError(
            f"paper {found.paper!r} has numbers about videos for {found.model}, which are read from folders: --tasks "
            f"{tasks}, or some of them"
        )
    why = f"benchmarks about videos, which are read from folders (--tasks {tasks})"
    left = [row.published for row in found.rows if row.data in named]
    return found._replace(rows=rows, refused={**found.refused, why: left})


def _sorted_out(paper: str, model: str, rows: Sequence[Published], by_others: bool) -> Wanted:
    full = [row for row in everything() if by_others and row.method == "full" and _base(row.model) == model]
    papers = {row.paper for row in rows}
    rows = [*(row for row in full if row.paper in papers), *rows]
    known, refused, copies = [], defaultdict(list), _copies(rows, paper)
    for row in rows:
        match _parsed(row):
            case Row() as found:
                known.append(found._replace(copied=copies.get((row.paper, row.method, row.tokens_kept), "")))
            case why:
                refused[why].append(row)
    return Wanted(paper, model, tuple(known), refused, by_others)


def _with_other_models(found: Wanted, rows: Sequence[Published]) -> Wanted:
    """Adds the numbers of models that no checkpoint of a supported family is, by their names."""
    others = [row for row in rows if not row.model.startswith(tuple(_FAMILIES.values()))]
    if not others:
        return found
    why = f"models that are not here ({', '.join(dict.fromkeys(_base(row.model) for row in others))})"
    return found._replace(refused={**found.refused, why: others})


def _parsed(row: Published) -> Row | str:
    """Returns what a number means here, or the reason why it cannot be computed."""
    if not _is_answer(row):
        return "averages, shares of the uncompressed model, costs, and parts of benchmarks"
    data = _known(row.benchmark, _DATA, known_names())
    if data == "textvqa" and row.model.startswith(("LLaVA-1.5", "LLaVA-NeXT")):
        data = "textvqa_ocr"  # LLaVA's own evaluation has the OCR tokens in the prompt
    if not data:
        return "benchmarks that are not here"
    if row.method.endswith(" (port)"):
        return "ports of a method to another model, which compute other scores"
    method = _known(row.method, _METHODS, METHODS)
    if not method:
        return "methods that are not here"
    if data in video_rows.DATA and (why := video_rows.refusal_of(row, method)):
        return why
    tokens = None if method == "full" else _tokens(row.tokens_kept)
    value = _value(row.value)
    if (tokens is None and method != "full") or value is None:
        return "budgets and values that are no plain numbers"
    number = next((_NUMBERS[data, key] for key in (row.metric, row.benchmark) if (data, key) in _NUMBERS), "")
    scale = 1000.0 if row.metric == "score/1000" else 100.0
    found = Row(row, value, method, tokens, data, number, scale, _incomparable(row, data), "")
    if data not in video_rows.DATA:
        return found
    settings, frames = video_rows.settings_of(row, method, tokens), video_rows.frames_of(row)
    return found._replace(incomparable=video_rows.incomparable(row, data), settings=settings, frames=frames)


def _is_answer(row: Published) -> bool:
    return row.metric in _ANSWERS and not row.benchmark.startswith("average")


def _known(name: str, others: Mapping[str, str], names: Iterable[str]) -> str:
    return _by_plain_name(tuple(names)).get(plain(others.get(plain(name), name)), "")


@cache
def _by_plain_name(names: tuple[str, ...]) -> dict[str, str]:
    return {plain(one): one for one in names}


def _tokens(text: str) -> int | float | None:
    if re.fullmatch(r"\d+", text):
        return int(text)
    text = f"{100 * float(share[1]):g}%" if (share := re.match(r"r=(0\.\d+)\b", text)) else text
    return round(float(text[:-1]) / 100, 6) if re.fullmatch(r"\d+(\.\d+)?%", text) else None


def _value(text: str) -> float | None:
    return float(text.rstrip("*")) if re.fullmatch(r"\d+(\.\d+)?\*?", text) else None


def _incomparable(row: Published, data: str) -> str:
    """Returns why a published number is another measure than ours, as far as its source says."""
    if data in _JUDGED:
        return _JUDGED[data]
    if data in _ON_SERVERS and not row.value.endswith("*"):
        return f"it is of the split {_ON_SERVERS[data]}, whose answers are on a server"
    if row.metric in ("normalised score", "standard benchmark", "F1/acc", "acc/score/%"):
        return f"its metric is {row.metric!r}"
    if data == "hallusionbench":
        return "which of its three accuracies it is, or their mean, is not said"
    if data == "mme" and row.metric not in ("perception score", "total score") and row.benchmark == "MME":
        return f"its metric is {row.metric!r}, and not said to be perception or both parts"
    return ""


def _copies(rows: Sequence[Published], paper: str) -> dict[tuple[str, str, str], str]:
    """Returns where else the numbers of a row stand, by paper, method and budget; none for a paper's own method."""
    tables: dict[tuple[str, str, str], dict[str, dict[str, str]]] = defaultdict(lambda: defaultdict(dict))
    for row in everything():
        if _is_answer(row):
            key = (_base(row.model), plain(row.method), row.tokens_kept)
            of_part = row.benchmark.startswith(("VideoMME ", "EgoSchema "))
            data = "" if of_part else _known(row.benchmark, _DATA, known_names())
            tables[key][row.paper][data or row.benchmark] = row.value
    found = {}
    for row in rows:
        here = tables[_base(row.model), plain(row.method), row.tokens_kept]
        if _is_own(row.method, row.paper) or row.paper not in here:
            continue
        own, same = here[row.paper], []
        for other, values in here.items():
            shared = [name for name in own if name in values]
            alike = sum(_value(own[name]) is not None and _value(own[name]) == _value(values[name]) for name in shared)
            if other != row.paper and alike >= max(_ALIKE, len(shared) - 1):
                same.append(f"{other} ({alike} of {len(shared)})")
        found[row.paper, row.method, row.tokens_kept] = ", ".join(same)
    return found


def _is_own(method: str, paper: str) -> bool:
    """Returns whether a paper proposes a method: VisionZip, HiPrune++ and LLaVA-PruMerge's PruMerge+."""
    name = plain(re.sub(r"\(.*\)", "", paper)).removeprefix("llava").replace("reproduction", "")
    return bool(name) and plain(re.sub(r"\(.*\)", "", method)).removesuffix("plus").removesuffix("plus") == name


def _base(model: str) -> str:
    """Returns the name of a model without what stands in brackets."""
    return model.partition(" (")[0]


def _model_of(rows: Sequence[Published], model_type: str, checkpoint: str, frames: int) -> str:
    """Returns the model of a family in some rows: of the checkpoint's size and these frames, as far as there is one."""
    start = _FAMILIES.get(model_type, "\0")
    models = list(dict.fromkeys(_base(row.model) for row in rows if row.model.startswith(start)))
    sizes = re.findall(r"\d+(?:\.\d+)?b\b", checkpoint.lower())
    fitting = [model for model in models if any(model.lower().split(" ")[0].endswith(f"-{size}") for size in sizes)]
    with_frames = [model for model in fitting or models if model.endswith(f" {frames} frames")]
    return (with_frames or fitting or models or [""])[0]
