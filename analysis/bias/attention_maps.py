"""What scorers, prompt, response and interventions look at in example images: heat maps over the image."""

import math
import textwrap
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from PIL import Image

from analysis.bias.answer import told
from analysis.bias.figures import NAMES
from analysis.bias.measured import grid_of, mapped, plan_of
from analysis.bias.signals import EVIDENCE, RANDOM, RESPONSE, Key
from analysis.drawing import FAINT, INK, RIGHT, WRONG, caption, house_style
from analysis.tables import grid, percent
from foveate.bias.tables import SAMPLES, TableFolder
from foveate.core.arrangement import Grid
from foveate.data.sample import VQASample
from foveate.functional.regions import spread, squares

OCCLUSION: Key = ("occlusion", "")
_CONTROLS = (EVIDENCE, RANDOM, "uniform")
_MOST = 8  # times an even share, where the colours end
_LETTERS = 22  # of a line beside the images


class Look(NamedTuple):
    """Where one signal looks: (rows, columns) in multiples of an even share, NaN where nothing is known."""

    key: Key
    times: np.ndarray


class Example(NamedTuple):
    """A question, its image as (height, width, 3) in [0, 1], the evidence as (rows, columns) bool, and the looks."""

    question: str
    reference: str
    answer: str
    score: float
    pixels: np.ndarray
    evidence: np.ndarray
    looks: tuple[Look, ...]


def shown_keys(folder: TableFolder) -> list[Key]:
    """What is worth a column: a few [CLS] layers, their sums, a few blocks of the prompt, the response, occlusion.

    Single layers are the first, the middle and the last one, and of [CLS] the last but one, which most methods read.
    """
    keys = mapped(folder)
    chosen: list[Key] = []
    for signal in ("cls", "cls sum", "prompt", RESPONSE):
        single = [key for key in keys if key[0] == signal and key[1].isdigit()]
        places = {0, len(single) // 2, len(single) - 1} | ({max(0, len(single) - 2)} if signal == "cls" else set())
        if single and signal != RESPONSE:
            chosen += [single[place] for place in sorted(places)]
        chosen += [key for key in keys if key[0] == signal and not key[1].isdigit()]
    return [*chosen, OCCLUSION]


def attention_data(
    folder: TableFolder, samples: Sequence[VQASample], keys: Sequence[Key], rows: int = 5
) -> list[Example]:
    """The questions whose answers hang most on some block of patches, each of another kind and image if possible.

    Args:
        folder: A finished measurement.
        samples: Its questions, as `samples_of` gives them.
        keys: Signals and layers; `OCCLUSION` is what is lost when a block is taken away, never below 0.
        rows: How many questions.
    """
    asked = folder.read(SAMPLES).to_pandas().set_index("sample_id")
    chosen = list(_telling(asked, rows).index)
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
        row, known = asked.loc[name], dict(maps.loc[name].items())
        drop = torch.tensor(np.asarray(row["drop"], float)[None]).clamp(min=0)
        known[OCCLUSION] = spread(drop, block)[0].numpy()
        evidence = np.asarray(known.get((EVIDENCE, ""), np.zeros(shape.patches)), float) > 0.5
        looks = tuple(Look(key, _times(np.asarray(known[key], float), shape)) for key in keys)
        question, reference, answer, score = row[["question", "reference", "answer", "score"]]
        pixels, evidence = _pixels(images[name], shape), evidence.reshape(shape.rows, shape.columns)
        examples.append(Example(question, reference, answer, score, pixels, evidence, looks))
    return examples


def draw_look(pixels: np.ndarray, look: Look | None, evidence: np.ndarray, ax: Axes) -> Axes:
    """The image, pale under the colours of one look; the evidence is outlined.

    Args:
        pixels: As in `Example`.
        look: None means the image itself.
        evidence: As in `Example`.
        ax: Where to draw.
    """
    height, width = pixels.shape[:2]
    scale = np.ones((height // evidence.shape[0], width // evidence.shape[1]))
    ax.imshow(pixels if look is None else np.repeat(0.45 + 0.55 * pixels.mean(-1, keepdims=True), 3, -1))
    if look is not None:
        strength = np.clip(np.log2(np.clip(np.nan_to_num(look.times), 1, None)) / np.log2(_MOST), 0, 1)
        heat = np.kron(strength, scale)
        ax.imshow(heat, cmap="YlOrRd", vmin=0, vmax=1, alpha=np.where(heat > 0, 0.35 + 0.6 * heat, 0))
    if evidence.any():
        outline = np.pad(np.kron(evidence, scale), 1)
        x, y = np.arange(outline.shape[1]) - 1, np.arange(outline.shape[0]) - 1
        ax.contour(x, y, outline, [0.5], colors=["white"], linewidths=2.4)
        ax.contour(x, y, outline, [0.5], colors=["black"], linewidths=1)
    ax.set(xticks=[], yticks=[])
    ax.spines[:].set_visible(False)
    return ax


def attention_figure(examples: Sequence[Example]) -> Figure:
    """A row per question, which stands at the left with the model's answer; the image, then a column per look."""
    keys = [look.key for look in examples[0].looks]
    with house_style():
        figure = Figure(figsize=(2.9 + 1.3 * (len(keys) + 1), 1.6 + 1.4 * len(examples)), layout="constrained")
        axes = figure.subplots(len(examples), len(keys) + 2, squeeze=False, width_ratios=[1.75, *[1] * (len(keys) + 1)])
        for line, example in zip(axes, examples, strict=True):
            _label(example, line[0])
            for ax, look in zip(line[1:], (None, *example.looks), strict=True):
                draw_look(example.pixels, look, example.evidence, ax)
        for ax, key in zip(axes[0, 1:], (None, *keys), strict=True):
            ax.set_title("image" if key is None else title(key, "\n"), fontsize=10.5, loc="center")
        colours = figure.colorbar(_colours(), ax=axes, shrink=0.5, pad=0.01, ticks=np.log2([1, 2, 4, _MOST]))
        colours.ax.set_yticklabels(["even", "2 x", "4 x", f"{_MOST} x"])
        note = (
            "Colours: times an even share; patches with less than an even share stay clear. Outlined: the evidence, "
            "what must be seen to answer. What the answer hangs on: by how much its log-probability falls when a block "
            "of patches is taken away. Numbers are layers. These questions were picked because their answers hang on "
            "some block, so they say nothing about averages."
        )
        caption(figure, "What is looked at, and what the answer hangs on", note)
    return figure


def attention_table(summary: pd.DataFrame, keys: Sequence[Key]) -> str:
    """What the tops of these signals hold, over all questions, as Markdown.

    Args:
        summary: As `analysis.bias.data.summary_table` gives it.
        keys: Signals and layers; controls are added.
    """
    columns = {
        "evidence_recall": "evidence in the top",
        "block_share": "what the answer hangs on, in the top",
        "overlap_response": "overlap with the response's top",
        "effective_tokens": "effective patches",
    }
    rows = _rows(summary, [*(key for key in keys if key != OCCLUSION), *((name, "") for name in _CONTROLS)])
    lines = []
    for key, row in rows.items():
        cells = {text: told(row, name) for name, text in columns.items()}
        if key[0] == RESPONSE and "-" in key[1]:
            cells[columns["overlap_response"]] = "itself"
        lines.append({"signal": title(key), **cells})
    return grid(lines)


def attention_answer(summary: pd.DataFrame, keys: Sequence[Key], folder: TableFolder) -> str:
    """What these signals see of the evidence and of what the answer hangs on, in words; no difference is claimed.

    Args:
        summary: As `analysis.bias.data.summary_table` gives it.
        keys: Signals and layers.
        folder: Where that was measured.
    """
    known = _rows(summary, keys)
    n, images, keep = summary["n"].max(), summary["images"].max(), plan_of(folder, "keep")
    top = f"{percent(float(keep))} % of the patches" if "." in keep else f"the best {keep} patches"
    parts = [
        f"n = {n:,} questions about {images:,} images; the top are {top}; brackets hold 95 % intervals over images."
    ]
    for measure, text in (
        ("evidence_recall", "Of the evidence, the top holds"),
        ("block_share", "Of what the answer hangs on, which is known by covering and not by attention, it holds"),
    ):
        found = [f"{told(row, measure)} ({title(key)})" for key, row in _best(known, measure).items()]
        control = [told(row, measure) for row in _rows(summary, [(RANDOM, "")]).values()]
        beside = f" Random patches: {control[0]}." if control else ""
        parts.append(f"{text} {', '.join(found) or 'what nobody measured'}.{beside}")
    parts.append(
        "[CLS] attention is the same for all questions about an image; prompt, response and occlusion are not. Best "
        "layers were picked on these same questions, which flatters them."
    )
    return "\n\n".join(parts)


def title(key: Key, gap: str = " ") -> str:
    """A signal in a few words: `[CLS] layer 2`."""
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
            return f"the answer{gap}hangs on"
    return f"{NAMES.get(signal, signal)}{gap if layers else ''}{layers}"


def _best(known: Mapping[Key, pd.Series], measure: str) -> dict[Key, pd.Series]:
    """The highest of every signal, in the order of the signals."""
    found: dict[str, tuple[Key, pd.Series]] = {}
    for key, row in known.items():
        if pd.notna(row[measure]) and (key[0] not in found or row[measure] > found[key[0]][1][measure]):
            found[key[0]] = key, row
    return dict(found.values())


def _rows(summary: pd.DataFrame, keys: Sequence[Key]) -> dict[Key, pd.Series]:
    rows = {(str(row["signal"]), str(row["layers"])): row for _, row in summary.iterrows()}
    return {key: rows[key] for key in keys if key in rows}


def _telling(asked: pd.DataFrame, rows: int) -> pd.DataFrame:
    most = [max(drop, default=0.0) for drop in asked["drop"]]
    ordered = asked.iloc[np.argsort(np.negative(most), kind="stable")]
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


def _pixels(image: Image.Image, shape: Grid) -> np.ndarray:
    """Enlarged to a whole number of pixels per patch."""
    sides = zip(image.size, (shape.columns, shape.rows), strict=True)
    width, height = (math.ceil(size / patches) * patches for size, patches in sides)
    return np.asarray(image.convert("RGB").resize((width, height)), float) / 255


def _label(example: Example, ax: Axes) -> None:
    ax.axis("off")
    mark, colour = ("✓", RIGHT) if example.score == 1 else ("✗", WRONG)
    texts = [(example.question, INK), (f"{mark} {example.answer}", colour)]
    if example.score != 1:
        texts.append((f"right: {example.reference}", FAINT))
    down = 0
    for text, ink in texts:
        shown = textwrap.fill(text, _LETTERS, max_lines=4)
        offset = {"xytext": (0, -13 * down), "textcoords": "offset points", "xycoords": "axes fraction"}
        ax.annotate(shown, (0, 1), va="top", fontsize=10, color=ink, **offset)
        down += shown.count("\n") + 1.3


def _colours() -> ScalarMappable:
    return ScalarMappable(Normalize(0, np.log2(_MOST)), "YlOrRd")
