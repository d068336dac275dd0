"""Makes the tables of benchmarks and prompts in docs/how_to/benchmarks.md: `python -m tests.data.benchmark_tables`."""

from pathlib import Path
from tempfile import TemporaryDirectory

from foveate.data.benchmark import Benchmark
from foveate.data.benchmarks import BENCHMARKS
from foveate.data.load import load_samples
from foveate.data.prompts import INTERNVL, LLAVA, QWEN, Phrase
from foveate.data.sample import Form, VQASample
from foveate.metrics.benchmarks import measures_of
from tests.data import video_tables
from tests.data.test_benchmarks import FILES

PAGE = Path(__file__).parents[2] / "docs/how_to/benchmarks.md"
BEGIN, END = "<!-- {} begin: python -m tests.data.benchmark_tables -->\n", "<!-- {} end -->\n"
_HEADER = "name | hub id, configuration | splits | columns | prompt | score of a question | official numbers | source"
SHOWN = 3  # official numbers of a benchmark; the others are counted
SCORES = {
    "vqa": "VQA accuracy",
    "textvqa": "VQA accuracy",
    "gqa": "exact match of bare words",
    "exact": "exact match",
    "pope": "yes or no",
    "yes_no": "yes or no",
    "yes_or_no": "yes or no",
    "scienceqa": "letter",
    "seed": "letter",
    "mmbench": "letter",
    "choice": "letter",
    "letter": "letter",
    "mmstar": "letter",
    "mathvista": "letter",
    "mmmu": "letter",
    "mmmu_open": "number or text in the answer",
    "mentions": "parts mentioned",
    "box": "overlap of at least ½",
    "anls": "ANLS",
    "relaxed": "relaxed accuracy",
    "ocr": "reference in the answer",
    "ocr_formula": "reference in the answer, without blanks",
    "chair": "no absent object",
    "videomme": "letter",
    "mvbench": "letter",
    "longvideobench": "letter, else drawn",
    "mlvu": "letter",
    "egoschema": "letter, else drawn",
}
"""Name of each scoring in the table."""


def samples_of(name: str, folder: Path) -> list[VQASample]:
    """Returns the questions of the small table that tests have of a benchmark, in its usual split."""
    make = FILES.get(name) or video_tables.FILES[name]
    table = make(folder / (name if name in ("gqa", *video_tables.FILES) else f"{name}.parquet"))
    return load_samples(f"{name}:{table}", BENCHMARKS[name].split)


def tables() -> dict[str, str]:
    """Returns the table of benchmarks and that of prompts, by name."""
    with TemporaryDirectory() as folder:
        found = {name: samples_of(name, Path(folder)) for name in BENCHMARKS}
    forms = {sample.form for samples in found.values() for sample in samples}
    prompts = "prompt | LLaVA (and all others) | Qwen-VL | InternVL"
    return {
        "benchmarks": _grid(_HEADER, [_row(BENCHMARKS[name], samples) for name, samples in found.items()]),
        "prompts": _grid(prompts, [_prompts(form) for form in LLAVA if form in forms]),
    }


def page() -> str:
    """Returns the page with its tables made anew."""
    text = PAGE.read_text(encoding="utf-8")
    for name, table in tables().items():
        begin, end = (mark.format(name) for mark in (BEGIN, END))
        before, rest = text.split(begin)
        text = f"{before}{begin}\n{table}\n{end}{rest.split(end)[1]}"
    return text


def _grid(header: str, rows: list[list[str]]) -> str:
    lines = [header.split(" | "), ["---"] * (header.count(" | ") + 1), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _row(benchmark: Benchmark, samples: list[VQASample]) -> list[str]:
    parts = [*benchmark.parts.values(), *(benchmark.images or {}).values()]
    configs = dict.fromkeys(part.config for part in parts if part.config)
    splits = [
        f"**{name}**" if name == benchmark.split else name + ("" if part.answered else "¹")
        for name, part in benchmark.parts.items()
    ]
    images = [benchmark.image + (" and more" if benchmark.more_images else "")] if benchmark.image else []
    columns = list(dict.fromkeys([*benchmark.columns, *benchmark.image_ids, *images]))
    names = [measure.name for measure in measures_of(benchmark.name)]
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return [
        f"`{benchmark.name}`",
        ", ".join([f"`{benchmark.repo}`", *configs]),
        ", ".join(splits),
        ", ".join(columns),
        "; ".join(dict.fromkeys(sample.form for sample in samples)),
        "; ".join(dict.fromkeys(SCORES[sample.scoring] for sample in samples)),
        ", ".join(names[:SHOWN]) + more,
        benchmark.source,
    ]


def _prompts(form: Form) -> list[str]:
    own, *others = (_shown(family[form]) for family in (LLAVA, QWEN, INTERNVL))
    return [form, own, *("as LLaVA" if other == own else other for other in others)]


def _shown(phrase: Phrase) -> str:
    options = "\n".join(phrase.option.format(letter=letter, text=letter.lower()) for letter in "AB")
    hint = phrase.hint.replace("{hint}", "hint")
    text = phrase.text.replace("{question}", "Q").replace("{options}", options).replace("{hint}", hint)
    return f"`{text}`".replace("\n", "⏎")


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
