import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hiplora.adapters import DenseDelta, LowRankDelta
from hiplora.measures import pair_table
from hiplora.spectrum import decompose
from tests.measures import dense_reference as reference
from tests.measures.cases import cases


def cosine(X, Y):
    return float(np.sum(X * Y) / (np.linalg.norm(X) * np.linalg.norm(Y)))


def overlap(X, Y):
    """Overlap of the column spaces."""
    bases = []
    for matrix in (X, Y):
        U, s, _ = np.linalg.svd(matrix)
        bases.append(U[:, : int((s > 1e-10 * s[0]).sum())])
    P, Q = bases
    return reference.energy(P.T @ Q) / min(P.shape[1], Q.shape[1])


def second_of(case, seed):
    rng = np.random.default_rng(seed)
    r = int(rng.integers(1, 6))
    return LowRankDelta(rng.normal(size=(case.W0.shape[0], r)), rng.normal(size=(r, case.W0.shape[1])))


@given(cases(zero=False), st.integers(0, 1000))
def test_every_number_of_a_pair_is_that_of_the_dense_updates(case, seed):
    other = second_of(case, seed)
    row = pair_table(case.spectrum, {"a": case.delta, "b": other}, case.k, 0.05).iloc[0]
    X, Y, U, V = case.dW, other.dense(), case.U, case.V
    assert row["cosine"] == pytest.approx(cosine(X, Y), abs=1e-9)
    assert row["cosine_pp"] == pytest.approx(cosine(U.T @ X @ V, U.T @ Y @ V), abs=1e-9)
    assert row["overlap_left"] == pytest.approx(overlap(X, Y))
    assert row["overlap_right"] == pytest.approx(overlap(X.T, Y.T))


@given(cases(weights=("generic",), zero=False), st.integers(0, 1000))
def test_the_cosine_of_the_residual_blocks_is_that_of_the_projected_updates(case, seed):
    other = second_of(case, seed)
    row = pair_table(case.spectrum, {"a": case.delta, "b": other}, case.k, 0.05).iloc[0]
    if case.k == min(case.W0.shape):
        assert np.isnan(row["cosine_rr"])
        return
    left, right = (np.eye(d) - B @ B.T for d, B in zip(case.W0.shape, (case.U, case.V), strict=True))
    X, Y = left @ case.dW @ right, left @ other.dense() @ right
    # Relative to blocks that hold a thousandth of the update at least: below, float32 vectors leave few digits.
    if (
        min(reference.energy(X) / reference.energy(case.dW), reference.energy(Y) / reference.energy(other.dense()))
        > 1e-3
    ):
        assert row["cosine_rr"] == pytest.approx(cosine(X, Y), abs=2e-3)


@given(cases(weights=("generic", "repeated")), st.integers(0, 1000), st.floats(0, 2))
def test_the_joint_tightness_is_that_of_the_sum(case, seed, power):
    other = second_of(case, seed)
    row = pair_table(case.spectrum, {"a": case.delta, "b": other}, case.k, 0.05, power).iloc[0]
    C = case.U.T @ (case.dW + other.dense()) @ case.V
    cost = reference.cost(C, case.spectrum.sigma[: case.k], power)
    assert row["joint_tightness"] == pytest.approx(np.sqrt(cost) / 0.05)


def test_an_adapter_beside_itself_is_the_same_in_every_channel(rng):
    spectrum = decompose(rng.normal(size=(12, 9)))
    delta = LowRankDelta(rng.normal(size=(12, 3)), rng.normal(size=(3, 9)))
    row = pair_table(spectrum, {"a": delta, "b": delta}, 4, 0.05).iloc[0]
    for column in ("cosine", "cosine_pp", "cosine_rr", "overlap_left", "overlap_right"):
        assert row[column] == pytest.approx(1), column


def test_updates_in_different_channels_do_not_meet(rng):
    spectrum = decompose(rng.normal(size=(12, 9)))
    Ut, Vt = spectrum.Ut.astype(float), spectrum.Vt.astype(float)
    principal, residual = LowRankDelta(Ut[:2].T, Vt[:2]), LowRankDelta(Ut[5:7].T, Vt[5:7])
    row = pair_table(spectrum, {"p": principal, "r": residual}, 4, 0.05).iloc[0]
    assert row["cosine"] == pytest.approx(0, abs=1e-6)
    assert row["overlap_left"] == pytest.approx(0, abs=1e-6)
    assert np.isnan(row["cosine_pp"])
    assert np.isnan(row["cosine_rr"])


@pytest.mark.filterwarnings("error")
def test_an_update_of_zeros_has_no_angle(rng):
    spectrum = decompose(rng.normal(size=(6, 5)))
    one = LowRankDelta(rng.normal(size=(6, 2)), rng.normal(size=(2, 5)))
    row = pair_table(spectrum, {"a": one, "zero": LowRankDelta(0 * one.L, one.R)}, 2, 0.05).iloc[0]
    assert row[["cosine", "cosine_pp", "cosine_rr", "overlap_left", "overlap_right"]].isna().all()


@given(cases(zero=False), st.integers(0, 1000))
def test_dense_updates_give_the_same_pairs(case, seed):
    other = second_of(case, seed)
    low_rank = pair_table(case.spectrum, {"a": case.delta, "b": other}, case.k, 0.05).iloc[0]
    mixed = pair_table(case.spectrum, {"a": case.dense, "b": DenseDelta(other.dense())}, case.k, 0.05).iloc[0]
    half = pair_table(case.spectrum, {"a": case.dense, "b": other}, case.k, 0.05).iloc[0]
    for column in ("cosine", "cosine_pp", "overlap_left", "overlap_right", "joint_tightness"):
        assert mixed[column] == pytest.approx(low_rank[column], rel=1e-6, abs=1e-9), column
        assert half[column] == pytest.approx(low_rank[column], rel=1e-6, abs=1e-9), column


def test_every_pair_has_one_row(rng):
    spectrum = decompose(rng.normal(size=(6, 5)))
    deltas = {name: LowRankDelta(rng.normal(size=(6, 1)), rng.normal(size=(1, 5))) for name in "abcd"}
    table = pair_table(spectrum, deltas, 2, 0.05)
    assert list(zip(table["first"], table["second"], strict=True)) == [
        ("a", "b"), ("a", "c"), ("a", "d"), ("b", "c"), ("b", "d"), ("c", "d"),
    ]  # fmt: skip
