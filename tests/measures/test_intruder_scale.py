"""The scale at which an update brings a new leading direction, against dense SVDs."""

import numpy as np
import pytest
from scipy.optimize import brentq

from hiplora.adapters import LowRankDelta
from hiplora.geometry import Moments, with_inputs
from hiplora.measures import intruder_scale, intruder_threshold
from hiplora.spectrum import decompose
from tests.measures import dense_reference as reference

SHAPES = [(100, 160), (160, 100), (120, 120)]


def falling(shape, power, rng):
    """Return a weight with singular values `i^power` between random directions."""
    k = min(shape)
    return (reference.haar(shape[0], k, rng) * np.arange(1.0, k + 1) ** power) @ reference.haar(shape[1], k, rng).T


def random_direction(shape, rng):
    return LowRankDelta(reference.haar(shape[0], 1, rng), reference.haar(shape[1], 1, rng).T)


def leads(W0, delta, scale):
    """Return whether the leading direction of the changed weight is nearer to the update's than to any of the old."""
    leading = np.linalg.svd(W0 + scale * delta.dense(), full_matrices=False)[0][:, 0]
    old = np.linalg.svd(W0, full_matrices=False)[0]
    return abs(leading @ delta.L[:, 0]) > np.abs(old.T @ leading).max()


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("power", [-0.5, -0.25])
def test_a_random_direction_leads_from_this_scale_on(rng, shape, power):
    W0 = falling(shape, power, rng)
    spectrum = decompose(W0)
    for _ in range(5):
        delta = random_direction(shape, rng)
        scale = intruder_scale(spectrum, delta)
        # The theory is exact for large weights; here draws differ by some percent.
        assert not leads(W0, delta, 0.85 * scale)
        assert leads(W0, delta, 1.15 * scale)


def test_well_beyond_this_scale_there_are_intruders(rng):
    W0 = falling((100, 160), -0.5, rng)
    spectrum = decompose(W0)
    for _ in range(8):
        delta = random_direction(W0.shape, rng)
        count, _ = reference.intruders(W0, 1.6 * intruder_scale(spectrum, delta) * delta.dense())
        assert count == 1


def test_the_threshold_of_square_noise_is_the_published_one():
    # Singular values of a large square matrix of normal entries of variance 1/n lie by the quarter circle law.
    count = 4000
    places = (np.arange(count) + 0.5) / count

    def law(s, place):
        return (s * np.sqrt(4 - s * s) / 2 + 2 * np.arcsin(s / 2)) / np.pi - place

    sigma = np.array([brentq(law, 0, 2, args=(place,)) for place in places[::-1]])
    # Its edge is 2, and the threshold 1; the places next to the edge are what a sum differs by from its integral.
    found = intruder_threshold(np.concatenate([[2.0], sigma]), (count + 1, count + 1))
    assert found == pytest.approx(1, abs=count ** (-1 / 3))


def test_the_largest_direction_of_an_update_decides(rng):
    W0 = falling((60, 40), -0.5, rng)
    L, R = reference.haar(60, 3, rng), reference.haar(40, 3, rng).T
    spectrum = decompose(W0)
    alone = intruder_scale(spectrum, LowRankDelta(L[:, :1], R[:1]))
    assert intruder_scale(spectrum, LowRankDelta(L * [2.0, 0.5, 0.1], R)) == pytest.approx(alone / 2, rel=1e-6)


def test_units_do_not_matter(rng):
    W0, delta = falling((30, 20), -0.5, rng), random_direction((30, 20), rng)
    larger = LowRankDelta(1e9 * delta.L, delta.R)
    expected = intruder_scale(decompose(W0), delta)
    assert intruder_scale(decompose(1e9 * W0), larger) == pytest.approx(expected, rel=1e-5)


def test_equal_singular_values_let_anything_lead():
    assert intruder_threshold(np.ones(5), (5, 8)) == 0


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(
    ("W0", "dW"),
    [(np.eye(3), np.zeros((3, 3))), (np.zeros((3, 3)), np.eye(3)), (np.ones((1, 4)), np.ones((1, 4)))],
    ids=["update of zeros", "weight of zeros", "single row"],
)
def test_where_nothing_can_lead_it_is_not_defined(W0, dW):
    assert np.isnan(intruder_scale(decompose(W0), LowRankDelta(dW, np.eye(dW.shape[1]))))


def test_on_inputs_it_is_not_defined(rng):
    W0 = rng.normal(size=(6, 4))
    moments = Moments(np.eye(4, dtype=np.float32), np.array([4.0, 3.0, 2.0, 1.0]))
    on_inputs = with_inputs(decompose(moments.root(W0)), moments)
    assert np.isnan(intruder_scale(on_inputs, random_direction((6, 4), rng)))


def test_a_spectrum_that_is_not_complete_is_refused(rng):
    with pytest.raises(ValueError, match="all 20"):
        intruder_scale(decompose(rng.normal(size=(30, 20)), 4), random_direction((30, 20), rng))
