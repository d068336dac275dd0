"""Attention maps of scorers, prompt, response and occlusion over example images."""

import textwrap
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure

from foveate.analysis.bias.figures import NAMES
from foveate.analysis.bias.measurement import grid_of, mapped, plan_of
from foveate.analysis.bias.measures import EVIDENCE, MEASURE_NAMES, PERCENT, RANDOM, RESPONSE, Key, with_interval
from foveate.analysis.drawing import FAINT, INK, caption, draw_outline, house_style, mark_of, pixels_of
from foveate.analysis.tables import grid, percent
from foveate.bias.tables import SAMPLES, TableFolder
from foveate.core.arrangement import Grid
from foveate.data.sample import VQASample
from foveate.functional.regions import spread, squares

OCCLUSION: Key = ("occlusion", "")
_CONTROLS = (EVIDENCE, RANDOM, "uniform")
_MOST = 8  # upper end of the colours, in multiples of an even share
_LETTERS = 22  # characters of a line beside the images
_MEASURES = ("evidence_recall", "block_share", "overlap_response", "effective_tokens")
_NAMES = MEASURE_NAMES | {"effective_tokens": "effective patches"}


class AttentionMap(NamedTuple):
    """The map of one signal, (rows, columns) in multiples of an even share, NaN where unknown."""

    key: Key
    times: np.ndarray


class Example(NamedTuple):
    """A question with its image (height, width, 3) in [0, 1], its evidence (rows, columns) bool, and its maps."""

    question: str
    reference: str
    answer: str
    score: float
    pixels: np.ndarray
    evidence: np.ndarray
    maps: tuple[AttentionMap, ...]


def shown_keys(folder: TableFolder) -> list[Key]:
    """Returns the columns of the figure: some [CLS] layers, their sums, some prompt blocks, response and occlusion.

    Single layers are the first, the middle and the last one, and for [CLS] the last but one, which most methods read.
    """
    keys = mapped(folder)
    chosen: list[Key] = []
    for signal in ("cls", "cls sum", "prompt", RESPONSE):
        single = [key for key in keys if key[0] == signal and key[1].isdigit()]
        indices = {0, len(single) // 2, len(single) - 1} | ({max(0, len(single) - 2)} if signal == "cls" else set())
        if single and signal != RESPONSE:
            chosen += [single[index] for index in sorted(indices)]
        chosen += [key for key in keys if key[0] == signal and not key[1].isdigit()]
    return [*chosen, OCCLUSION]


def attention_data(
    folder: TableFolder, samples: Sequence[VQASample], keys: Sequence[Key], rows: int = 5
) -> list[Example]:
    """Returns the questions with the largest loss from one removed block, of different kinds and images if possible.

    Args:
        folder: A finished measurement.
        samples: Its questions, as `samples_of` returns them.
        keys: Signals and layers; `OCCLUSION` is the loss from a removed block, at least 0.
        rows: Number of questions.
    """
    questions = folder.read(SAMPLES).to_pandas().set_index("sample_id")
    chosen = list(_examples(questions, rows).index)
    wanted = [*keys, (EVIDENCE, "")]
    columns = ["sample_id", "signal", "layers", "map"]
    table = folder.read("maps", columns, [("sample_id", "in", chosen)]).to_pandas()
    table = table[[key in wanted for key in zip(table["signal"], table["layers"], strict=True)]]
    maps = table.set_index(["sample_id", "signal", "layers"])["map"]
    shape = grid_of(folder)
    block = squares(shape, int(plan_of(folder, "side")))
    images = {sample.id: sample.image for sample in samples}
    examples = []
    for name in chosen:
        row, known = questions.loc[name], dict(maps.loc[name].items())
        drop = torch.tensor(np.asarray(row["drop"], float)[None]).clamp(min=0)
        known[OCCLUSION] = spread(drop, block)[0].numpy()
        evidence = np.asarray(known.get((EVIDENCE, ""), np.zeros(shape.patches)), float) > 0.5
        shown = tuple(AttentionMap(key, _times(np.asarray(known[key], float), shape)) for key in keys)
        question, reference, answer, score = row[["question", "reference", "answer", "score"]]
        pixels = pixels_of(images[name], (shape.rows, shape.columns))
        evidence = evidence.reshape(shape.rows, shape.columns)
        examples.append(Example(question, reference, answer, score, pixels, evidence, shown))
    return examples


def draw_attention_map(pixels: np.ndarray, shown: AttentionMap | None, evidence: np.ndarray, ax: Axes) -> Axes:
    """Draws a map over the faded image, with the evidence outlined.

    Args:
        pixels: Image, as in `Example`.
        shown: The map; None means the image itself.
        evidence: Evidence, as in `Example`.
        ax: Axes to draw on.
    """
    scale = pixels.shape[0] // evidence.shape[0], pixels.shape[1] // evidence.shape[1]
    ax.imshow(pixels if shown is None else np.repeat(0.45 + 0.55 * pixels.mean(-1, keepdims=True), 3, -1))
    if shown is not None:
        strength = np.clip(np.log2(np.clip(np.nan_to_num(shown.times), 1, None)) / np.log2(_MOST), 0, 1)
        heat = np.kron(strength, np.ones(scale))
        ax.imshow(heat, cmap="YlOrRd", vmin=0, vmax=1, alpha=np.where(heat > 0, 0.35 + 0.6 * heat, 0))
    draw_outline(evidence, scale, (2.4, 1), ax)
    ax.set(xticks=[], yticks=[])
    ax.spines[:].set_visible(False)
    return ax


def attention_figure(examples: Sequence[Example]) -> Figure:
    """Draws a row per question with the model's answer, the image and a column per map."""
    keys = [shown.key for shown in examples[0].maps]
    with house_style():
        figure = Figure(figsize=(2.9 + 1.3 * (len(keys) + 1), 1.6 + 1.4 * len(examples)), layout="constrained")
        axes = figure.subplots(len(examples), len(keys) + 2, squeeze=False, width_ratios=[1.75, *[1] * (len(keys) + 1)])
        for line, example in zip(axes, examples, strict=True):
            _label(example, line[0])
            for ax, shown in zip(line[1:], (None, *example.maps), strict=True):
                draw_attention_map(example.pixels, shown, example.evidence, ax)
        for ax, key in zip(axes[0, 1:], (None, *keys), strict=True):
            ax.set_title("image" if key is None else title(key, "\n"), fontsize=10.5, loc="center")
        colours = ScalarMappable(Normalize(0, np.log2(_MOST)), "YlOrRd")
        bar = figure.colorbar(colours, ax=axes, shrink=0.5, pad=0.01, ticks=np.log2([1, 2, 4, _MOST]))
        bar.ax.set_yticklabels(["even", "2 x", "4 x", f"{_MOST} x"])
        note = (
            "Colours: multiples of an even share, from 1. Outlined: evidence. Occlusion: loss of the answer's "
            "log-probability when a block of patches is removed. Numbers are layers. The questions were chosen for a "
            "large loss, so they are not representative."
        )
        caption(figure, "Attention maps and occlusion", note)
    return figure


def attention_table(summary: pd.DataFrame, keys: Sequence[Key], folder: TableFolder) -> str:
    """Returns the measures of these signals and of controls over all questions as a Markdown table.

    Args:
        summary: Table of `foveate.analysis.bias.data.summary_table`.
        keys: Signals and layers.
        folder: The measurement.
    """
    keep, rows = plan_of(folder, "keep"), []
    top = f"{percent(float(keep))} % of the" if "." in keep else keep
    by_key = {(str(row["signal"]), str(row["layers"])): row for _, row in summary.iterrows()}
    for key in [*(key for key in keys if key != OCCLUSION), *((name, "") for name in _CONTROLS)]:
        if key in by_key:
            cells = {f"{_NAMES[name]}{', %' if name in PERCENT else ''}": name for name in _MEASURES}
            itself = key[0] == RESPONSE and "-" in key[1]
            rows.append(
                {"signal": title(key)}
                | {
                    text: "itself" if itself and name == "overlap_response" else with_interval(by_key[key], name)
                    for text, name in cells.items()
                }
            )
    legend = (
        f"n = {summary['n'].max():,} questions about {summary['images'].max():,} images; brackets hold 95 % intervals "
        f"over images. The top is {top} patches. No differences were tested, so there are no verdicts."
    )
    return f"{legend}\n\n{grid(rows)}"


def title(key: Key, gap: str = " ") -> str:
    """Returns the short name of a signal: `[CLS] layer 2`."""
    signal, layers = key
    match signal:
        case "cls":
            return f"[CLS]{gap}layer {layers}"
        case "cls sum":
            return f"[CLS]{gap}sum {layers}"
        case "prompt":
            return f"prompt{gap}block {layers}"
        case "response":
            return f"response{gap}blocks {layers}"
        case "occlusion":
            return "occlusion"
    return f"{NAMES.get(signal, signal)}{gap if layers else ''}{layers}"


def _examples(questions: pd.DataFrame, rows: int) -> pd.DataFrame:
    most = [max(drop, default=0.0) for drop in questions["drop"]]
    ordered = questions.iloc[np.argsort(np.negative(most), kind="stable")]
    kinds, images, first = set(), set(), []
    for name, row in ordered.iterrows():
        if row["kind"] not in kinds and row["image_id"] not in images:
            first.append(name)
            kinds.add(row["kind"])
            images.add(row["image_id"])
    return ordered.loc[[*first, *ordered.index.difference(first, sort=False)][:rows]]


def _times(values: np.ndarray, shape: Grid) -> np.ndarray:
    total = values.sum()
    shares = values / total if total > 0 else np.full(values.shape, np.nan)
    return (shares * values.size).reshape(shape.rows, shape.columns)


def _label(example: Example, ax: Axes) -> None:
    ax.axis("off")
    mark, colour = mark_of(example.score)
    texts = [(example.question, INK), (f"{mark} {example.answer}", colour)]
    if example.score != 1:
        texts.append((f"right: {example.reference}", FAINT))
    down = 0
    for text, ink in texts:
        shown = textwrap.fill(text, _LETTERS, max_lines=4)
        offset = {"xytext": (0, -13 * down), "textcoords": "offset points", "xycoords": "axes fraction"}
        ax.annotate(shown, (0, 1), va="top", fontsize=10, color=ink, **offset)
        down += shown.count("\n") + 1.3
