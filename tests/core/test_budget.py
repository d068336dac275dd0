import pytest

from foveate.core.budget import Floor, Geometric, resolve_keep
from foveate.core.errors import BudgetError


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


@pytest.mark.parametrize("keep", [Floor(0.0), Floor(1.5), Geometric(0, 1, 3), Geometric(600, 1, 3)])
def test_rules_are_judged_like_plain_budgets(keep):
    with pytest.raises(BudgetError, match="keep="):
        resolve_keep(keep, 576)
