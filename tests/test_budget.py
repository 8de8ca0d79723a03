import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hiplora.budget import budget_cost, direction_weights, reallocate, shadow_price, tightness
from hiplora.errors import HiploraError
from tests import numerics
from tests.measures import dense_reference as reference


def draw_core(data):
    k = data.draw(st.integers(1, 8))
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1)))
    return rng.normal(size=(k, k)), np.sort(rng.exponential(size=k) + 0.01)[::-1]


@given(st.data(), st.floats(0, 3))
def test_the_cost_is_the_weighted_sum_over_the_weighted_spectrum(data, power):
    C, s = draw_core(data)
    assert budget_cost(C, s, power) == pytest.approx(reference.cost(C, s, power))


@given(st.data(), st.floats(0.01, 100))
def test_the_cost_is_quadratic_and_tightness_linear_in_the_core(data, scale):
    C, s = draw_core(data)
    assert budget_cost(scale * C, s) == pytest.approx(scale**2 * budget_cost(C, s))
    both = [tightness(budget_cost(core, s), 0.05) for core in (C, scale * C)]
    assert both[1] == pytest.approx(scale * both[0])


@given(st.data())
def test_the_cost_has_no_unit(data):
    C, s = draw_core(data)
    assert budget_cost(1000 * C, 1000 * s) == pytest.approx(budget_cost(C, s))


def test_moving_the_whole_spectrum_by_a_share_costs_the_square_of_that_share():
    s = np.array([3.0, 2.0, 1.0])
    assert budget_cost(0.1 * np.diag(s), s) == pytest.approx(0.01)
    assert tightness(budget_cost(0.1 * np.diag(s), s), 0.1) == pytest.approx(1)


def test_leading_directions_cost_more_unless_the_power_is_zero():
    s = np.array([4.0, 2.0, 1.0])
    leading, last = np.zeros((3, 3)), np.zeros((3, 3))
    leading[0, 0] = last[2, 2] = 0.1
    assert budget_cost(leading, s) == pytest.approx(16 * budget_cost(last, s))
    assert budget_cost(leading, s, 0) == pytest.approx(budget_cost(last, s, 0))
    assert list(direction_weights(s)) == [1, 0.5, 0.25]


@pytest.mark.filterwarnings("error")
def test_a_weight_of_zeros_has_no_cost_to_speak_of():
    assert np.isnan(budget_cost(np.ones((2, 2)), np.zeros(2)))
    assert np.isnan(tightness(budget_cost(np.ones((2, 2)), np.zeros(2)), 0.05))


def test_no_change_costs_nothing():
    assert budget_cost(np.zeros((2, 2)), np.array([2.0, 1.0])) == 0


@given(st.floats(-5, 5), st.floats(0.01, 5))
def test_a_price_is_the_slope_of_the_loss_along_the_cost(a, size):
    """A loss `-a sqrt(cost)` at `C = size`, with a cost of `C^2`: its slope against the cost is `-a / (2 size)`."""
    assert shadow_price(-a * size, size**2) == pytest.approx(a / (2 * size))


def test_what_costs_nothing_has_no_price():
    assert shadow_price(0.0, 0.0) == 0
    assert shadow_price(1.0, 0.0) == 0


@st.composite
def allocations(draw):
    """Budgets, prices of either sign or 0, tightness from 0 to above 1, and a limit."""
    names = [f"layers.{i}" for i in range(draw(st.integers(1, 8)))]

    def values(of):
        return dict(zip(names, draw(st.lists(of, min_size=len(names), max_size=len(names))), strict=True))

    price = st.one_of(st.just(0.0), st.floats(-10, 10), st.floats(1e-12, 1e12))
    return values(st.floats(1e-3, 10)), values(price), values(st.floats(0, 3)), draw(st.floats(1, 8))


def total(epsilon):
    return math.fsum(value**2 for value in epsilon.values())


@given(allocations())
def test_reallocation_keeps_the_total_and_the_limit(case):
    epsilon, price, spent, limit = case
    new = reallocate(epsilon, price, spent, limit)
    assert list(new) == list(epsilon)
    assert total(new) == pytest.approx(total(epsilon), rel=numerics.EXACT)
    for module, value in new.items():
        assert epsilon[module] / limit * (1 - 1e-12) <= value <= epsilon[module] * limit * (1 + 1e-12)


@given(allocations())
def test_a_budget_grows_the_more_the_higher_price_times_tightness(case):
    epsilon, price, spent, limit = case
    new = reallocate(epsilon, price, spent, limit)
    ordered = sorted(epsilon, key=lambda module: max(price[module], 0) * spent[module])
    factors = [new[module] / epsilon[module] for module in ordered]
    assert np.all(np.diff(factors) >= -1e-12 * limit)


@given(allocations(), st.randoms(use_true_random=False))
def test_reallocation_knows_no_order_of_modules(case, random):
    epsilon, price, spent, limit = case
    shuffled = random.sample(list(epsilon), len(epsilon))
    new = reallocate({module: epsilon[module] for module in shuffled}, price, spent, limit)
    assert list(new) == shuffled
    assert new == pytest.approx(reallocate(epsilon, price, spent, limit), rel=numerics.EXACT)


@given(allocations(), st.floats(1e-6, 1e6))
def test_the_unit_of_the_prices_does_not_matter(case, unit):
    epsilon, price, spent, limit = case
    scaled = {module: unit * value for module, value in price.items()}
    assert reallocate(epsilon, scaled, spent, limit) == pytest.approx(
        reallocate(epsilon, price, spent, limit), rel=numerics.EXACT
    )


@given(allocations(), st.floats(0.01, 100))
def test_equal_prices_change_nothing(case, price):
    epsilon, _, _, limit = case
    assert reallocate(epsilon, dict.fromkeys(epsilon, price), limit=limit) == pytest.approx(epsilon, rel=numerics.EXACT)


def test_where_no_limit_is_met_a_budget_is_in_proportion_to_price_times_size():
    epsilon, price, spent = (
        {"a": 0.1, "b": 0.2, "c": 0.1},
        {"a": 3.0, "b": 2.0, "c": 4.0},
        {"a": 1.0, "b": 1.0, "c": 0.5},
    )
    new = reallocate(epsilon, price, spent)
    scale = new["a"] / 0.3
    assert new == pytest.approx({"a": 0.3 * scale, "b": 0.4 * scale, "c": 0.2 * scale})
    assert total(new) == pytest.approx(0.06)


@pytest.mark.parametrize("price", [0.0, -1.0])
def test_without_a_positive_price_nothing_changes(price):
    epsilon = {"a": 0.1, "b": 0.3}
    assert reallocate(epsilon, dict.fromkeys(epsilon, price)) == epsilon
    assert reallocate(epsilon, dict.fromkeys(epsilon, 1.0), dict.fromkeys(epsilon, 0.0)) == epsilon


def test_what_the_limit_keeps_from_the_dear_layers_goes_to_the_others_alike():
    new = reallocate(
        {"dear": 0.1, "free": 0.1, "negative": 0.2}, {"dear": 5.0, "free": 0.0, "negative": -3.0}, limit=1.5
    )
    assert new["dear"] == pytest.approx(0.15)
    assert new["negative"] == pytest.approx(2 * new["free"])
    assert total(new) == pytest.approx(0.06)


@given(st.lists(st.floats(0.05, 20), min_size=2, max_size=8), st.data())
def test_repeated_reallocation_finds_the_best_split_of_the_model(gains, data):
    """Gains `a sqrt(c)`: by Cauchy and Schwarz a total is spent best where `c` is in proportion to `a^2`."""
    start = data.draw(st.lists(st.floats(0.01, 1), min_size=len(gains), max_size=len(gains)))
    a, epsilon = dict(enumerate(gains)), dict(enumerate(start))
    best = math.sqrt(total(epsilon) / total(a))

    def gain(epsilon):
        return sum(a[module] * epsilon[module] for module in a)

    for _ in range(30):
        new = reallocate(epsilon, {module: a[module] / (2 * epsilon[module]) for module in a})
        assert gain(new) >= gain(epsilon) * (1 - numerics.EXACT)
        epsilon = new
    assert epsilon == pytest.approx({module: best * a[module] for module in a}, rel=numerics.EXACT)


@given(st.lists(st.floats(0.05, 20), min_size=2, max_size=5), st.integers(0, 2**32 - 1))
def test_within_the_limit_no_other_split_gains_more(gains, seed):
    rng = np.random.default_rng(seed)
    names = range(len(gains))
    epsilon = dict(zip(names, rng.uniform(0.1, 1, len(gains)), strict=True))
    new = np.array(list(reallocate(epsilon, {i: gains[i] / (2 * epsilon[i]) for i in names}).values()))
    old = np.array(list(epsilon.values()))
    for direction in rng.normal(size=(200, len(gains))):
        other = new + 0.05 * direction * new
        other *= np.linalg.norm(old) / np.linalg.norm(other)
        if np.all((other >= old / 2) & (other <= old * 2)):
            assert np.dot(gains, other) <= np.dot(gains, new) * (1 + numerics.EXACT)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"price": {"a": 1.0}}, "b has no price"),
        ({"price": {"a": 1.0, "b": 1.0, "c": 1.0}}, "c has a price but no epsilon"),
        ({"tightness": {"a": 1.0}}, "b has no tightness"),
        ({"price": {"a": math.nan, "b": 1.0}}, "price of a is nan"),
        ({"tightness": {"a": 1.0, "b": -0.1}}, "tightness of b is -0.1"),
        ({"epsilon": {"a": 0.1, "b": 0.0}}, "epsilon of b is 0.0"),
        ({"limit": 0.5}, "limit must be a number of at least 1, got 0.5"),
        ({"limit": math.inf}, "limit must be a number of at least 1"),
    ],
)
def test_values_that_no_budget_can_follow_are_refused(change, message):
    usable = {"epsilon": {"a": 0.1, "b": 0.2}, "price": {"a": 1.0, "b": 1.0}, "tightness": {"a": 1.0, "b": 1.0}}
    with pytest.raises(HiploraError, match=message):
        reallocate(**(usable | change))
