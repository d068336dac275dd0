"""Tables that are read batch by batch: the same numbers as of a whole table, and no more memory for more questions."""

import json
import subprocess
import sys

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from foveate.analysis.bias.measurement import means
from foveate.analysis.bias.measures import MEASURED, RANGES
from foveate.bias.tables import TableFolder
from foveate.core.errors import DataError
from tests.tiers import extended

SIGNALS = [("cls", str(layer)) for layer in range(12)] + [("response", "0-3"), ("random", "0"), ("random", "1")]
HEADS, ASKED, GRID = 8, 16, (8, 16)  # questions of a batch


def batch_of(number: int, rng: np.random.Generator) -> dict[str, pa.Table]:
    """Returns heads, pairs and maps of a few questions about two images."""
    ids = {"sample_id": [f"q{number:03d}-{i}" for i in range(ASKED)]}
    ids |= {"image_id": [f"p{number:03d}-{i % 2}" for i in range(ASKED)]}
    heads, pairs, maps, curves = [], [], [], []
    for place, (signal, layers) in enumerate(SIGNALS):
        about = pd.DataFrame(ids).assign(signal=signal, layers=layers)
        maps.append(about.assign(map=list(rng.random((ASKED, GRID[0] * GRID[1]), np.float32))))
        measured = {measure: rng.uniform(*RANGES.get(measure, (0, 9)), ASKED) for measure in MEASURED}
        heads += [about.assign(head=head, **measured) for head in range(-1, HEADS)]
        curves += [about.assign(share=share, insertion=rng.normal(size=ASKED), deletion=0.0) for share in (0.1, 0.5)]
        for other, others in SIGNALS[place + 1 :]:
            pair = pd.DataFrame(ids).assign(signal_a=signal, layers_a=layers, signal_b=other, layers_b=others)
            pairs.append(pair.assign(spearman=rng.normal(size=ASKED)))
    tables = {"signals": pd.concat(heads), "pairs": pd.concat(pairs), "maps": pd.concat(maps)}
    tables["curves"] = pd.concat(curves)
    tables["signals"].loc[tables["signals"]["head"] == number % HEADS, "spearman_response"] = np.nan
    made = {name: pa.Table.from_pandas(table, preserve_index=False) for name, table in tables.items()}
    judged = {
        "drop": [[0.1]] * ASKED,
        "thinned_best": [0.1] * ASKED,
        "thinned": [[0.1]] * ASKED,
        "thing_drop": [[0.1]] * ASKED,
    }
    samples = ids | {"kind": ["list"] * ASKED, "answer_tokens": [4] * ASKED, "log_probability": [-0.1] * ASKED}
    return made | {"samples": pa.table(samples | judged)}


def written(folder: TableFolder, parts: int) -> TableFolder:
    rng = np.random.default_rng(parts)
    folder.begin({"grid": GRID})
    for number in range(parts):
        folder.append(batch_of(number, rng))
    return folder


@pytest.fixture(scope="module")
def few(tmp_path_factory) -> TableFolder:
    return written(TableFolder(tmp_path_factory.mktemp("few")), 3)


@pytest.fixture(scope="module")
def many(tmp_path_factory) -> TableFolder:
    return written(TableFolder(tmp_path_factory.mktemp("many")), 12)


PROBE = """
import json, sys, tracemalloc
from pathlib import Path
import pyarrow as pa
from foveate.analysis.bias.data import pair_matrix, signal_frame
from foveate.analysis.bias.slices import cross_table, heads_table
from foveate.analysis.bias.measurement import mean_maps, row_nulls, placeless
from foveate.analysis.bias.measurement import mapped
from foveate.bias.tables import TableFolder
from tests.tiers import extended

folder, arrow = TableFolder(Path(sys.argv[1])), pa.default_memory_pool()
found = {}
tracemalloc.start()
for task in (heads_table, cross_table, pair_matrix, mean_maps, placeless, row_nulls, mapped, signal_frame):
    tracemalloc.reset_peak()
    before = tracemalloc.get_traced_memory()[0]
    task(folder)
    found[task.__name__] = tracemalloc.get_traced_memory()[1] - before + arrow.max_memory()
for table in ("signals", "pairs", "maps"):
    folder.read(table)
found["whole"] = arrow.max_memory()
print(json.dumps(found))
"""


def peaks(folder: TableFolder) -> dict[str, int]:
    """Returns the peak memory of Python and Arrow in bytes, by task, in a separate process."""
    command = [sys.executable, "-c", PROBE, str(folder.folder)]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout)


@extended("memory")
def test_memory_does_not_grow_by_the_tables(few, many):
    tables = {name: many.read(name).nbytes - few.read(name).nbytes for name in ("signals", "pairs", "maps")}
    before, after = peaks(few), peaks(many)
    grown = {task: after[task] - before[task] for task in before}
    assert grown.pop("whole") > 0.9 * max(tables.values())  # who reads a whole table is caught
    assert grown.pop("signal_frame") < 0.5 * sum(tables.values())  # it holds the measures of every question
    assert grown.pop("placeless") < 0.5 * tables["maps"]  # one of them
    assert grown.pop("row_nulls") < 0.5 * tables["maps"]  # a map per image of one signal
    assert max(grown.values()) < 0.25 * min(tables.values())


def test_means_are_those_of_the_whole_table(few):
    keys = ["signal", "layers", "head"]
    whole = few.read("signals").to_pandas()
    expected = whole[whole["head"] >= 2].groupby(keys)["spearman_response"].agg(["mean", "count"])
    found = means(few, "signals", keys, "spearman_response", [("head", ">=", 2)]).set_index(keys).sort_index()
    assert found.index.equals(expected.index)
    assert found.to_numpy() == pytest.approx(expected.to_numpy())
    assert set(found["n"]) == {2 * ASKED, 3 * ASKED}  # one batch did not know its head


def test_an_unknown_measure_has_no_mean(tmp_path):
    folder = TableFolder(tmp_path)
    folder.begin({})
    for name, values in (("q0", [np.nan, 1.0]), ("q1", [np.nan, 3.0])):
        table = pa.table({"sample_id": [name] * 2, "signal": ["a", "b"], "value": values})
        folder.append({"samples": pa.table({"sample_id": [name]}), "signals": table})
    found = means(folder, "signals", ["signal"], "value").set_index("signal")
    assert np.isnan(found.loc["a", "value"]) and list(found["n"]) == [0, 2] and found.loc["b", "value"] == 2


def test_batches_are_all_rows_of_their_questions_in_order(few):
    parts = list(few.batches("pairs", ["sample_id", "spearman"]))
    assert pa.concat_tables(parts).equals(few.read("pairs", ["sample_id", "spearman"]))
    questions = [set(part["sample_id"].to_pylist()) for part in parts]
    assert len(questions) == 3 and sum(map(len, questions)) == len(set().union(*questions))


def test_a_table_that_is_not_there_is_named(few):
    with pytest.raises(DataError, match=r"no table 'heads' in .*: measure this configuration first"):
        list(few.batches("heads", ["sample_id"]))
