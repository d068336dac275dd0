import pytest

from foveate.core.budget import resolve_keep
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
