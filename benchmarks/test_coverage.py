"""Coverage of intervals and errors of tests under the conditions of the reports: `pytest benchmarks -k coverage -s`.

Nothing is timed, so `results.csv` does not change; the worst cells are printed.
"""

import numpy as np
import pytest
from scipy.stats import binomtest

from benchmarks.simulated import IMAGES, LEAST, MOST, Covered, accuracies, differences, null_methods, resampled
from foveate.analysis.records import read_records
from foveate.evaluation import EvalConfig, evaluate
from foveate.methods import evidence, full, random, uniform, vtc_cls

SAMPLES, FAMILIES = 4000, 300
RECORDS = 6000  # questions, 500 images
FEW = 10  # differing images; with fewer, the interval of a difference may cover too much, but never too little
ERROR = 0.06


def test_intervals_of_accuracies_cover_what_they_claim():
    found = accuracies(SAMPLES)
    show("accuracies", found)
    assert not [cell for cell in found if surely(cell, "less", LEAST)]
    assert not [cell for cell in found if surely(cell, "greater", max(MOST, cell.bound))]


def test_intervals_of_differences_cover_what_they_claim():
    found = differences(SAMPLES)
    show("differences", found)
    assert not [cell for cell in found if surely(cell, "less", LEAST)]
    enough = [cell for cell in found if cell.differing >= FEW]
    show(f"differences, at least {FEW} images differ on average", enough)
    assert not [cell for cell in enough if surely(cell, "greater", max(MOST, cell.bound))]


def test_intervals_of_resampled_records_cover_what_they_claim(tmp_path):
    """Covers scores that are fractions too.

    With 20 images, or where the questions about one image differ more than images do, as those about things and details
    of a scene, intervals may cover too much, but never too little.
    """
    scores, images = {}, np.empty(0)
    methods = {"full": full(), "vtc_cls": vtc_cls(16, 0), "random 16": random(16), "random 7": random(7)}
    for name, compressor in (methods | {"uniform": uniform(36), "evidence": evidence(16)}).items():
        folder = evaluate(EvalConfig(compressor, limit=RECORDS, out=tmp_path)).folder
        records = read_records(tmp_path, folder.name)
        scores[name], images = records["score"].to_numpy(float), records["image_id"].to_numpy()
    found = resampled(scores, images, SAMPLES)
    show("resampled records", found)
    assert not [cell for cell in found if surely(cell, "less", LEAST)]
    alike = [cell for cell in found if cell.effect >= 1]
    show("resampled records whose questions about one image are alike", alike)
    enough = [cell for cell in alike if cell.differing >= FEW and not cell.cell.startswith(f"{min(IMAGES)} of ")]
    show(f"resampled records of more images, at least {FEW} not all right or alike", enough)
    assert not [cell for cell in enough if surely(cell, "greater", max(MOST, cell.bound))]


@pytest.mark.parametrize("correlation", [0.0, 0.3])
@pytest.mark.parametrize("seeds", [3, 5])
@pytest.mark.parametrize("images", [42, 100, 200])
def test_methods_that_equal_a_control_are_rarely_significant(images, seeds, correlation):
    found = null_methods(FAMILIES, images, seeds, correlation)
    before = null_methods(FAMILIES // 3, images, seeds, correlation, mean=True)
    print(f"\n{images} images, {seeds} seeds, correlation {correlation}: {found}; by their mean, as before: {before}")
    assert found.single <= ERROR
    assert binomtest(round(found.family * FAMILIES), FAMILIES, ERROR, "greater").pvalue > 0.01


def surely(cell: Covered, side: str, limit: float) -> bool:
    """Returns whether the coverage is significantly on that side of a limit, corrected over a grid."""
    return bool(binomtest(round(cell.coverage * cell.samples), cell.samples, limit, side).pvalue < 1e-4)


def show(name: str, found: list[Covered]) -> None:
    """Prints the worst cells."""
    found = sorted(found, key=lambda cell: cell.coverage)
    much = [cell for cell in found if cell.coverage > MOST]
    forced = [cell for cell in much if cell.bound > MOST]
    print(f"\n{name}: {len(found)} cells of {found[0].samples} samples; least {found[0]}; most {found[-1]}")
    if much:
        most = max(much, key=lambda cell: cell.differing)
        print(f"above {MOST}: {len(much)} cells, forced: {len(forced)}; of most differing images: {most}")
