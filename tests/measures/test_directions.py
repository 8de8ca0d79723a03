import numpy as np
import pytest
from hypothesis import given

from hiplora.measures import channels, direction_table, null_of, sweep_table
from hiplora.spectrum import decompose
from tests import numerics
from tests.measures import dense_reference as reference
from tests.measures.cases import cases


@given(cases(zero=False))
def test_the_energy_on_each_direction_is_that_of_its_projection(case):
    table = direction_table(case.spectrum.truncate(case.k), case.delta)
    total = reference.energy(case.dW)
    left, right = np.sum((case.U.T @ case.dW) ** 2, axis=1), np.sum((case.dW @ case.V) ** 2, axis=0)
    np.testing.assert_allclose(table["left"] * total, left, rtol=0, atol=case.energy_error)
    np.testing.assert_allclose(table["right"] * total, right, rtol=0, atol=case.energy_error)
    assert list(table["direction"]) == list(range(1, case.k + 1))


@given(cases(weights=("generic", "repeated")))
def test_the_core_change_is_the_diagonal_of_the_core_and_the_gain_is_relative(case):
    table = direction_table(case.spectrum.truncate(case.k), case.delta)
    change = np.diag(case.U.T @ case.dW @ case.V)
    np.testing.assert_allclose(table["core_change"], change, rtol=0, atol=case.product_error)
    sigma = case.spectrum.sigma[: case.k]
    np.testing.assert_allclose(table["gain"] * sigma, change, rtol=0, atol=case.product_error)


def test_a_direction_without_a_singular_value_has_no_gain(rng):
    spectrum = decompose(np.diag([2.0, 1.0, 0.0]))
    delta = cases_delta(rng, 3)
    assert list(np.isnan(direction_table(spectrum, delta)["gain"])) == [False, False, True]


def cases_delta(rng, size):
    from hiplora.adapters import LowRankDelta

    return LowRankDelta(rng.normal(size=(size, 2)), rng.normal(size=(2, size)))


def test_the_core_change_is_the_first_order_change_of_the_singular_value(rng):
    W0 = rng.normal(size=(9, 7))
    step = 1e-6
    delta = cases_delta(rng, 9)
    dW = delta.dense()[:, :7]
    from hiplora.adapters import DenseDelta

    table = direction_table(decompose(W0), DenseDelta(dW))
    sigma, size = np.linalg.svd(W0, compute_uv=False), np.linalg.norm(dW, 2)
    moved = np.linalg.svd(W0 + step * dW, compute_uv=False) - sigma
    # The second order of the step, two decompositions, and vectors kept in float32.
    second_order = step * size**2 / min(-np.diff(sigma).max(), sigma[-1])
    rounding = 2 * numerics.solver_error(W0.shape, sigma[0]) / step + numerics.kept_error(1) * size
    np.testing.assert_allclose(moved / step, table["core_change"], rtol=0, atol=second_order + rounding)


@given(cases(zero=False))
def test_shares_add_up_and_so_do_the_cumulative_ones(case):
    table = direction_table(case.spectrum, case.delta)
    (m, n), kept = case.W0.shape, numerics.kept_error(case.spectrum.k) + case.energy_error / reference.energy(case.dW)
    assert table["left_cumulative"].iloc[-1] == pytest.approx(1 if m <= n else table["left"].sum(), abs=kept)
    assert table["right_cumulative"].iloc[-1] == pytest.approx(1 if n <= m else table["right"].sum(), abs=kept)
    np.testing.assert_allclose(table["left_cumulative"], np.cumsum(table["left"]))


@given(cases(zero=False))
def test_the_cumulative_null_is_the_null_of_the_one_sided_share(case):
    table = direction_table(case.spectrum.truncate(case.k), case.delta)
    s = np.linalg.svd(case.dW, compute_uv=False)
    for side in ("left", "right"):
        null = null_of(case.k, case.W0.shape, s**2 / np.sum(s**2), side)
        last = table.iloc[-1]
        found = [last[f"{side}_null"], last[f"{side}_null_low"], last[f"{side}_null_high"]]
        # A band is a root of a variance that may cancel: good to the root of the rounding, 1e-8.
        np.testing.assert_allclose(found, [null.mean, null.low, null.high], rtol=1e-6)


@given(cases(zero=False))
def test_the_sweep_is_the_principal_share_at_every_k(case):
    table = sweep_table(case.spectrum, case.delta)
    m, n = case.W0.shape
    for row in table.itertuples():
        k = row.principal_rank
        alone = channels(case.delta, case.spectrum.Ut[:k], case.spectrum.Vt[:k])
        assert row.pp * alone.total == pytest.approx(alone.pp, abs=case.energy_error)
        assert row.enrichment == pytest.approx(row.pp / (k * k / (m * n)))


@given(cases(zero=False))
def test_a_dense_update_gives_the_same_tables(case):
    for table in (direction_table, sweep_table):
        low_rank, dense = table(case.spectrum, case.delta), table(case.spectrum, case.dense)
        # The bands again.
        np.testing.assert_allclose(
            low_rank.drop(columns="adapter").to_numpy(float), dense.drop(columns="adapter").to_numpy(float), atol=1e-7
        )


def test_an_update_of_zeros_has_no_shares(rng):
    from hiplora.adapters import LowRankDelta

    spectrum = decompose(rng.normal(size=(6, 5)))
    table = direction_table(spectrum, LowRankDelta(np.zeros((6, 2)), np.ones((2, 5))))
    assert table["left"].isna().all()
    assert (table["core_change"] == 0).all()
    assert sweep_table(spectrum, LowRankDelta(np.zeros((6, 2)), np.ones((2, 5))))["pp"].isna().all()
