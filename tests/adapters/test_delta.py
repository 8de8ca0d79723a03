import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hiplora.adapters import DenseDelta, LowRankDelta
from tests import numerics
from tests.measures.cases import cases


@given(cases())
def test_a_low_rank_update_answers_as_its_dense_form(case):
    low_rank, dense = case.delta, case.dense
    assert low_rank.shape == dense.shape == case.dW.shape
    assert low_rank.energy == pytest.approx(dense.energy)
    np.testing.assert_allclose(low_rank.dense(), dense.dense())
    np.testing.assert_allclose(low_rank.row_energy(), dense.row_energy(), rtol=0, atol=case.energy_error)
    np.testing.assert_allclose(low_rank.column_energy(), dense.column_energy(), rtol=0, atol=case.energy_error)


@given(cases())
def test_projections_on_either_side_are_those_of_the_matrix(case):
    for Ut, Vt in ((case.U.T, None), (None, case.V.T), (case.U.T, case.V.T), (None, None)):
        expected = case.dW if Ut is None else Ut @ case.dW
        expected = expected if Vt is None else expected @ Vt.T
        for delta in (case.delta, case.dense):
            found = delta.project(Ut, Vt)
            np.testing.assert_allclose(found.dense(), expected, rtol=0, atol=case.product_error)
            assert found.energy == pytest.approx(np.sum(expected**2), abs=case.energy_error)


@given(cases())
def test_the_compact_svd_is_one_of_the_update(case):
    for delta in (case.delta, case.dense):
        left, s, right_t = delta.compact_svd
        solved = numerics.solver_error((*case.W0.shape, len(case.R)), 1.0)
        exact = {"rtol": 0, "atol": case.product_error + solved * case.scale}
        orthonormal = {"rtol": 0, "atol": 3 * solved}  # of a QR, of an SVD and of their product
        np.testing.assert_allclose((left * s) @ right_t, case.dW, **exact)
        np.testing.assert_allclose(left.T @ left, np.eye(len(s)), **orthonormal)
        np.testing.assert_allclose(right_t @ right_t.T, np.eye(len(s)), **orthonormal)
        np.testing.assert_allclose(s, np.linalg.svd(case.dW, compute_uv=False)[: len(s)], **exact)
        assert len(s) == len(delta.singular_values) == delta.rank
        # Of a dense update they are roots of a Gram matrix, so good to the root of the rounding.
        np.testing.assert_allclose(delta.singular_values, s, rtol=0, atol=case.scale * solved**0.5)
        np.testing.assert_allclose(delta.singular_values**2, s**2, rtol=0, atol=2 * case.scale**2 * solved)


@given(cases(), st.integers(0, 1000))
def test_inner_products_do_not_depend_on_the_form(case, seed):
    rng = np.random.default_rng(seed)
    other = LowRankDelta(rng.normal(size=(case.W0.shape[0], 3)), rng.normal(size=(3, case.W0.shape[1])))
    expected = np.sum(case.dW * other.dense())
    error = case.product_error * np.linalg.norm(other.L) * np.linalg.norm(other.R)
    error += numerics.factored_error(other.L, other.R) * case.scale
    for first in (case.delta, case.dense):
        for second in (other, DenseDelta(other.dense())):
            assert first.inner(second) == pytest.approx(expected, abs=error)
            assert second.inner(first) == pytest.approx(expected, abs=error)


def test_the_rank_is_at_most_the_smaller_side(rng):
    assert LowRankDelta(rng.normal(size=(5, 9)), rng.normal(size=(9, 7))).rank == 5
    assert LowRankDelta(rng.normal(size=(5, 2)), rng.normal(size=(2, 7))).rank == 2
    assert DenseDelta(rng.normal(size=(5, 7))).rank == 5


def test_factors_that_do_not_multiply_are_a_programming_error():
    with pytest.raises(ValueError, match=r"\(4, 2\) and \(3, 5\) do not multiply"):
        LowRankDelta(np.zeros((4, 2)), np.zeros((3, 5)))


def test_arithmetic_is_in_float64(rng):
    delta = LowRankDelta(rng.normal(size=(4, 2)).astype(np.float32), rng.normal(size=(2, 5)).astype(np.float32))
    assert delta.dense().dtype == delta.row_energy().dtype == np.float64
    assert DenseDelta(np.ones((2, 2), dtype=np.float16)).matrix.dtype == np.float64


def test_a_low_rank_update_is_never_formed(rng, monkeypatch):
    """A weight of a billion entries: forming it would take 8 GB."""
    m = n = 2**15
    delta = LowRankDelta(rng.normal(size=(m, 2)), rng.normal(size=(2, n)))
    monkeypatch.setattr(LowRankDelta, "dense", lambda self: pytest.fail("formed the update"))
    assert delta.energy == pytest.approx(np.sum(delta.compact_svd[1] ** 2))
    assert delta.row_energy().sum() == pytest.approx(delta.energy)
    assert delta.column_energy().sum() == pytest.approx(delta.energy)
    assert delta.project(np.eye(3, m), np.eye(3, n)).shape == (3, 3)
