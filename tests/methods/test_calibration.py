"""FitPrune's calibration on the shipped model; its steps equal the authors' in `test_conformance_more`."""

import numpy as np
import pytest

from foveate.compressors.recipe_file import read
from foveate.core.errors import BudgetError
from foveate.data.load import load_samples
from foveate.methods.calibration import Widths, fitted, search
from foveate.models.loading.load import load


def test_a_fitted_table_needs_so_few_operations_and_is_a_recipe_file(tmp_path):
    loaded, samples = load(), load_samples("scenes", "search", limit=2)
    compressor = fitted(loaded, samples, 0.5)
    plan = np.array(compressor.plan(144, 8))
    hidden, inner = loaded.model.config.text_config.hidden_size, loaded.model.config.text_config.intermediate_size
    before = plan * hidden * (3 * hidden + 2 * plan)  # the tokens that a block drops take part in its attention only
    after = np.append(plan[1:], plan[-1]) * hidden * (hidden + 3 * inner)
    full = 144 * hidden * (4 * hidden + 2 * 144 + 3 * inner)
    assert (before + after).sum() <= 0.52 * 8 * full  # counts are rounded
    assert plan[0] == 144 > plan[-1]
    compressor.save(tmp_path / "fitted.json", loaded)
    assert read(tmp_path / "fitted.json").compressor == compressor


def test_an_alpha_that_is_enough_stops_the_drops_and_the_next_is_smaller():
    tokens = {0.5: [[100, 40, 30, 20]], 0.25: [[100, 90, 80, 70]]}
    first, second = search(lambda alpha: np.array(tokens.get(alpha, tokens[0.25])), 0.6, Widths(10, 20))[:2]
    assert (first.alpha, first.reached, first.dropped) == (0.5, True, (0.6, 0.0, 0.0, 0.0))
    assert (second.alpha, second.reached) == (0.25, False)
    np.testing.assert_allclose(second.dropped, (0.1, 0.1, 0.1, 0.0))


@pytest.mark.parametrize("keep", (0, 1.0, 64))
def test_a_share_that_is_none_is_refused(keep):
    with pytest.raises(BudgetError, match=f"keep={keep}: expected the share of the operations"):
        fitted(load(), load_samples("scenes", "search", limit=1), keep)


def test_without_samples_nothing_can_be_measured():
    with pytest.raises(BudgetError, match="no samples"):
        fitted(load(), [], 0.5)
