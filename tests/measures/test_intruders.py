import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hiplora.adapters import LowRankDelta
from hiplora.measures import intruder_dimensions
from hiplora.spectrum import decompose
from tests.measures import dense_reference as reference
from tests.measures.cases import cases


@given(cases(weights=("generic",)), st.integers(1, 10), st.floats(0.1, 30))
def test_count_and_share_are_those_of_two_full_svds(case, q, scale):
    delta = LowRankDelta(scale * case.L, case.R)
    dW = delta.dense()
    for tau in (0.4, 0.5, 0.8):
        found = intruder_dimensions(case.spectrum, delta, q, tau)
        count, share = reference.intruders(case.W0, dW, q, tau)
        # A cosine within rounding of the threshold may fall on either side.
        if np.abs(found.cosines - tau).min() > 1e-4:
            assert found.count == count
            assert found.share == pytest.approx(share, abs=1e-5)


@pytest.mark.parametrize("shape", [(40, 30), (30, 40), (30, 30)])
def test_a_large_new_direction_is_an_intruder(rng, shape):
    W0 = rng.normal(size=shape)
    new = LowRankDelta(100 * reference.haar(shape[0], 1, rng), reference.haar(shape[1], 1, rng).T)
    found = intruder_dimensions(decompose(W0), new)
    assert found.count >= 1
    assert found.cosines[0] < 0.5
    assert (found.count, found.share) == pytest.approx(reference.intruders(W0, new.dense()), rel=1e-5)


def test_an_update_along_the_old_directions_brings_no_intruders(rng):
    W0 = rng.normal(size=(30, 20))
    U, s, Vt = np.linalg.svd(W0, full_matrices=False)
    found = intruder_dimensions(decompose(W0), LowRankDelta(U[:, :5] * s[:5], Vt[:5]))
    assert (found.count, found.share) == (0, 0)


def test_no_update_brings_no_intruders(rng):
    zero = LowRankDelta(np.zeros((12, 2)), np.zeros((2, 30)))
    assert intruder_dimensions(decompose(rng.normal(size=(12, 30))), zero).count == 0


@pytest.mark.parametrize("shape", [(12, 5), (5, 12)])
def test_a_changed_weight_of_low_rank_counts_only_directions_that_it_has(rng, shape):
    W0 = rng.normal(size=(shape[0], 2)) @ rng.normal(size=(2, shape[1]))
    zero = LowRankDelta(np.zeros((shape[0], 1)), np.zeros((1, shape[1])))
    found = intruder_dimensions(decompose(W0), zero)
    assert found.count == 0
    assert np.all(np.isfinite(found.cosines))
    assert np.all(found.cosines <= 1 + 1e-6)


def test_a_spectrum_that_is_not_complete_is_refused(rng):
    W0 = rng.normal(size=(30, 20))
    with pytest.raises(ValueError, match="all 20"):
        intruder_dimensions(decompose(W0, 4), LowRankDelta(np.zeros((30, 1)), np.zeros((1, 20))))
