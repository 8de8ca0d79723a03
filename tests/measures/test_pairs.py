import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hiplora.adapters import DenseDelta, LowRankDelta
from hiplora.measures import pair_table
from hiplora.spectrum import decompose
from tests import numerics
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


def cosine_error(first, second, X, Y):
    """Twice the relative error of either matrix: of the inner product and of the norms."""
    errors = (numerics.factored_error(delta.L, delta.R) / np.linalg.norm(M) for delta, M in ((first, X), (second, Y)))
    return 2 * sum(errors)


def space_error(delta):
    """How far rounding turns the column space, by the least singular value that counts."""
    s = np.linalg.svd(delta.dense(), compute_uv=False)
    return numerics.subspace_error(s, int((s > 1e-10 * s[0]).sum()), 2 * numerics.factored_error(delta.L, delta.R))


def second_of(case, seed):
    rng = np.random.default_rng(seed)
    r = int(rng.integers(1, 6))
    return LowRankDelta(rng.normal(size=(case.W0.shape[0], r)), rng.normal(size=(r, case.W0.shape[1])))


@given(cases(zero=False), st.integers(0, 1000))
def test_every_number_of_a_pair_is_that_of_the_dense_updates(case, seed):
    other = second_of(case, seed)
    row = pair_table(case.spectrum, {"a": case.delta, "b": other}, case.k, 0.05).iloc[0]
    X, Y, U, V = case.dW, other.dense(), case.U, case.V
    C, D = U.T @ X @ V, U.T @ Y @ V
    assert row["cosine"] == pytest.approx(cosine(X, Y), abs=cosine_error(case.delta, other, X, Y))
    assert row["cosine_pp"] == pytest.approx(cosine(C, D), abs=cosine_error(case.delta, other, C, D))
    error = 2 * (space_error(case.delta) + space_error(other))
    assert row["overlap_left"] == pytest.approx(overlap(X, Y), abs=error)
    assert row["overlap_right"] == pytest.approx(overlap(X.T, Y.T), abs=error)


@given(cases(weights=("generic",), zero=False), st.integers(0, 1000))
def test_the_cosine_of_the_residual_blocks_is_that_of_the_projected_updates(case, seed):
    other = second_of(case, seed)
    row = pair_table(case.spectrum, {"a": case.delta, "b": other}, case.k, 0.05).iloc[0]
    if case.k == min(case.W0.shape):
        assert np.isnan(row["cosine_rr"])
        return
    left, right = (np.eye(d) - B @ B.T for d, B in zip(case.W0.shape, (case.U, case.V), strict=True))
    X, Y = left @ case.dW @ right, left @ other.dense() @ right
    # The block comes by difference: what is kept of the vectors counts in parts of the whole update.
    part = min(reference.energy(X) / reference.energy(case.dW), reference.energy(Y) / reference.energy(other.dense()))
    if part > 1e-3:
        assert row["cosine_rr"] == pytest.approx(cosine(X, Y), abs=4 * numerics.kept_error(case.k) / part)


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
    assert row["cosine"] == pytest.approx(0, abs=numerics.kept_error(7))
    assert row["overlap_left"] == pytest.approx(0, abs=numerics.kept_error(7))
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
    C, D = (case.U.T @ delta.dense() @ case.V for delta in (case.delta, other))
    error = cosine_error(case.delta, other, C, D) + 2 * (space_error(case.delta) + space_error(other))
    for column in ("cosine", "cosine_pp", "overlap_left", "overlap_right", "joint_tightness"):
        bound = {"rel": numerics.EXACT} if column == "joint_tightness" else {"abs": error}
        assert mixed[column] == pytest.approx(low_rank[column], **bound), column
        assert half[column] == pytest.approx(low_rank[column], **bound), column


def test_every_pair_has_one_row(rng):
    spectrum = decompose(rng.normal(size=(6, 5)))
    deltas = {name: LowRankDelta(rng.normal(size=(6, 1)), rng.normal(size=(1, 5))) for name in "abcd"}
    table = pair_table(spectrum, deltas, 2, 0.05)
    assert list(zip(table["first"], table["second"], strict=True)) == [
        ("a", "b"), ("a", "c"), ("a", "d"), ("b", "c"), ("b", "d"), ("c", "d"),
    ]  # fmt: skip
