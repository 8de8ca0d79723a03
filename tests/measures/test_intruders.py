import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hiplora.adapters import DenseDelta, LowRankDelta
from hiplora.measures import intruder_dimensions
from hiplora.measures.intruders import _TOLERANCE
from hiplora.spectrum import decompose
from tests import numerics
from tests.measures import dense_reference as reference
from tests.measures.cases import cases


def assert_same(found, expected, W0, delta):
    _, of_share = reference.intruder_errors(W0, delta.dense())
    assert (found.count, found.share) == (expected[0], pytest.approx(expected[1], abs=of_share))


@given(cases(weights=("generic",)), st.integers(1, 10), st.floats(0.1, 30))
def test_count_and_share_are_those_of_two_full_svds(case, q, scale):
    delta = LowRankDelta(scale * case.L, case.R)
    dW = delta.dense()
    for tau in (0.4, 0.5, 0.8):
        found = intruder_dimensions(case.spectrum, delta, q, tau)
        count, share = reference.intruders(case.W0, dW, q, tau)
        cosines, of_share = reference.intruder_errors(case.W0, dW, q)
        # A cosine within rounding of the threshold may fall on either side.
        if np.all(np.abs(found.cosines - tau) > cosines):
            assert found.count == count
            assert found.share == pytest.approx(share, abs=of_share)


@pytest.mark.parametrize("shape", [(40, 30), (30, 40), (30, 30)])
def test_a_large_new_direction_is_an_intruder(rng, shape):
    W0 = rng.normal(size=shape)
    new = LowRankDelta(100 * reference.haar(shape[0], 1, rng), reference.haar(shape[1], 1, rng).T)
    found = intruder_dimensions(decompose(W0), new)
    assert found.count >= 1
    assert found.cosines[0] < 0.5
    assert_same(found, reference.intruders(W0, new.dense()), W0, new)


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
    assert np.all(found.cosines <= 1 + numerics.kept_error(1))


def test_a_spectrum_that_is_not_complete_is_refused(rng):
    W0 = rng.normal(size=(30, 20))
    with pytest.raises(ValueError, match="all 20"):
        intruder_dimensions(decompose(W0, 4), LowRankDelta(np.zeros((30, 1)), np.zeros((1, 20))))


SIZES = {"none": 0, "small": 1e-3, "middling": 0.3, "large": 3, "huge": 1e3}


@pytest.mark.parametrize("shape", [(240, 300), (300, 240), (240, 240), (30, 40)])
@pytest.mark.parametrize("size", SIZES.values(), ids=SIZES)
@pytest.mark.parametrize("spectrum", ["random", "steep", "repeated", "deficient"])
def test_a_low_rank_update_gives_what_the_same_update_gives_as_a_dense_one(rng, shape, size, spectrum):
    smallest = min(shape)
    U, V = (reference.haar(side, smallest, rng) for side in shape)
    s = {
        "random": np.sort(rng.random(smallest))[::-1],
        "steep": np.geomspace(1, 1e-5, smallest),
        "repeated": np.repeat([1.0, 0.5], smallest // 2),
        "deficient": np.where(np.arange(smallest) < 4, 1.0, 0.0),
    }[spectrum]
    W0 = (U * s) @ V.T
    base = decompose(W0)
    # Three values of its own: vectors of one value would be arbitrary where the update is all that is left.
    L = size * reference.haar(shape[0], 3, rng) * [1.0, 0.8, 0.6]
    delta = LowRankDelta(L, reference.haar(shape[1], 3, rng).T)
    q = 6
    found, expected = (intruder_dimensions(base, update, q) for update in (delta, DenseDelta(delta.dense())))
    if spectrum in ("random", "steep"):  # else the vectors are arbitrary within their repeated values
        cosines, of_share = reference.intruder_errors(W0, delta.dense(), q)
        np.testing.assert_array_less(np.abs(found.cosines - expected.cosines), cosines)
        if np.all(np.abs(expected.cosines - 0.5) > cosines):
            assert (found.count, found.share) == (expected.count, pytest.approx(expected.share, abs=of_share))
    assert len(found.cosines) == len(expected.cosines)


def test_an_update_against_the_base_does_not_hide_what_comes_forward(rng):
    # The leading directions are taken away: those looked for are then further back than q.
    W0 = rng.normal(size=(240, 300))
    U, s, Vt = np.linalg.svd(W0, full_matrices=False)
    delta = LowRankDelta(-U[:, :8] * s[:8], Vt[:8])
    found = intruder_dimensions(decompose(W0), delta, q=5)
    assert found.count == 0
    np.testing.assert_array_less(1 - found.cosines, reference.intruder_errors(W0, delta.dense(), 5)[0])
    assert found.share == 0


def test_an_update_that_leaves_the_leading_directions_alone_is_not_overlooked(rng):
    # The leading directions are exact at once, and below all of them as long as the update is not yet resolved.
    size = 200
    s = np.sqrt(np.concatenate([np.linspace(1.1, 1.0, 11), np.full(95, 0.95), np.full(94, 0.01)]))
    W0 = np.hstack([np.diag(s), np.zeros((size, size))])
    x = np.zeros(size)
    x[11:] = 1 / np.sqrt(size - 11)
    new = LowRankDelta(np.sqrt(0.5) * x[:, None], np.eye(2 * size)[size : size + 1])
    found = intruder_dimensions(decompose(W0), new)
    assert_same(found, reference.intruders(W0, new.dense()), W0, new)
    assert found.count == 1


@pytest.mark.parametrize("steps", [0, 1])
def test_what_does_not_get_exact_in_a_few_steps_is_done_the_dense_way(rng, monkeypatch, steps):
    W0, (L, R) = rng.normal(size=(240, 300)), (rng.normal(size=(240, 2)), rng.normal(size=(2, 300)))
    expected = intruder_dimensions(decompose(W0), LowRankDelta(L, R))
    monkeypatch.setattr("hiplora.measures.intruders._STEPS", steps)
    found = intruder_dimensions(decompose(W0), LowRankDelta(L, R))
    # Each way ends where the residual is below `_TOLERANCE` of the eigenvalue.
    squares = np.linalg.svd(W0 + L @ R, compute_uv=False) ** 2
    cosines = numerics.vector_errors(squares, 2 * _TOLERANCE * squares[0])[: len(found.cosines)]
    np.testing.assert_array_less(np.abs(found.cosines - expected.cosines), cosines)
