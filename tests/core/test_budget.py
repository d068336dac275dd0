import numpy as np
import pytest

from foveate.core.budget import Curve, Floor, Geometric, Interpolated, resolve_keep
from foveate.core.errors import BudgetError
from foveate.methods import fitprune
from foveate.methods.fitprune_table import DROPPED


@pytest.mark.parametrize(
    ("keep", "expected"), [(1, 1), (144, 144), (0.5, 72), (0.11, 16), (0.05, 7), (1.0, 144), (1e-9, 1)]
)
def test_counts_stay_and_fractions_are_rounded_half_up(keep, expected):
    assert resolve_keep(keep, 144) == expected


@pytest.mark.parametrize("keep", [0, -3, 145, 0.0, 1.5, -0.2])
def test_budgets_out_of_range_name_the_value_and_the_patches(keep):
    with pytest.raises(BudgetError, match=rf"keep={keep}.*144"):
        resolve_keep(keep, 144)


@pytest.mark.parametrize(
    ("share", "expected"), [(0.05, 28), (0.5, 288), (1 / 3, 192), (0.1, 57), (1.0, 576), (1e-9, 1)]
)
def test_floors_are_rounded_down_apart_from_float_noise(share, expected):
    assert resolve_keep(Floor(share), 576) == expected


def test_geometric_steps_multiply_by_the_same_factor():
    assert [resolve_keep(Geometric(72, step, 3), 576) for step in (1, 2, 3)] == [288, 144, 72]
    assert [resolve_keep(Geometric(0.01, step, 2), 100) for step in (1, 2)] == [10, 1]


@pytest.mark.parametrize(
    "keep", [Floor(0.0), Floor(1.5), Geometric(0, 1, 3), Geometric(600, 1, 3), Interpolated(1.5, Curve((0, 1), (0, 1)))]
)
def test_rules_are_judged_like_plain_budgets(keep):
    with pytest.raises(BudgetError, match="keep="):
        resolve_keep(keep, 576)


def test_a_curve_gives_the_share_that_is_left_by_straight_lines():
    curve = Curve((0, 0.25, 0.5, 1), (0, 0.1, 0.9, 1))
    for share in (0.03, 0.25, 0.3, 0.77, 1.0):
        expected = np.interp(share, curve.at, curve.values)
        assert curve.value(share) == pytest.approx(expected)
        assert resolve_keep(Interpolated(share, curve), 1000) == int(1000 * expected + 0.5)
    assert resolve_keep(Interpolated(36, curve), 144) == 14
    assert resolve_keep(Interpolated(1, curve), 1000) == 1


def test_fitprunes_table_has_the_authors_counts():
    for cut, final in ((60, 127), (80, 62), (90, 37)):
        plan = fitprune(1 - cut / 100).plan(576, 32)
        assert plan == tuple(576 - np.cumsum([0, *DROPPED[cut]])[:32])
        assert plan[-1] == final
