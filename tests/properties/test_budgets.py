import math

from hypothesis import given
from hypothesis import strategies as st

from foveate.core.budget import Capped, Floor, Geometric, Times, resolve_keep
from foveate.core.errors import BudgetError

PATCHES = st.integers(1, 3000)
SHARES = st.floats(0, 1, exclude_min=True)
ANYTHING = st.one_of(st.integers(), st.floats(allow_nan=True, allow_infinity=True))


@given(ANYTHING, PATCHES)
def test_any_number_is_a_budget_within_the_image_or_is_refused_by_name(keep, patches):
    try:
        count = resolve_keep(keep, patches)
    except BudgetError as error:
        assert f"keep={keep}" in str(error)
        assert not (1 <= keep <= patches if isinstance(keep, int) else 0 < keep <= 1)
    else:
        assert isinstance(count, int) and 1 <= count <= patches


NUMBERS = st.one_of(st.integers(-5, 5000), st.floats(allow_nan=True, allow_infinity=True))


@given(NUMBERS, st.integers(1, 9), st.floats(0.01, 4), PATCHES)
def test_rules_made_of_any_number_stay_within_the_image_or_are_refused(number, steps, factor, patches):
    for rule in (Floor(float(number)), Geometric(number, steps, 9), Times(number, factor)):
        try:
            assert 1 <= resolve_keep(rule, patches) <= patches
        except BudgetError as error:
            assert "keep=" in str(error)


@given(SHARES, PATCHES)
def test_a_fraction_is_rounded_half_up_and_its_floor_down(share, patches):
    assert abs(resolve_keep(share, patches) - max(1, share * patches)) <= 0.5 + 1e-6
    assert resolve_keep(Floor(share), patches) <= resolve_keep(share, patches)
    assert resolve_keep(Floor(share), patches) == max(1, math.floor(share * patches + 1e-9))


@given(st.lists(SHARES, min_size=2, max_size=2), PATCHES)
def test_a_greater_fraction_never_keeps_fewer(shares, patches):
    less, more = sorted(shares)
    assert resolve_keep(less, patches) <= resolve_keep(more, patches)


@given(st.integers(-5, 5000), st.integers(2, 3000))
def test_a_capped_count_leaves_something_to_drop(count, patches):
    assert 1 <= resolve_keep(Capped(count), patches) < patches
