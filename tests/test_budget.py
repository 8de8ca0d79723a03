import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hiplora.budget import budget_cost, direction_weights, tightness
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
