"""One layer along a run: energies relative to the weight, step by step."""

import numpy as np
import pytest

from hiplora.adapters import LowRankDelta
from hiplora.measures import checkpoint_table
from hiplora.spectrum import decompose
from tests import numerics


@pytest.fixture
def W0(rng):  # noqa: N802
    return rng.normal(size=(12, 9))


def test_each_step_has_the_energies_of_its_own_update(rng, W0):
    deltas = {20: LowRankDelta(rng.normal(size=(12, 2)), rng.normal(size=(2, 9))),
              10: LowRankDelta(0.1 * rng.normal(size=(12, 2)), rng.normal(size=(2, 9)))}  # fmt: skip
    table = checkpoint_table(decompose(W0), deltas, "run")
    assert table["step"].drop_duplicates().tolist() == [10, 20]
    U, _, Vt = np.linalg.svd(W0, full_matrices=False)
    whole = np.sum(W0**2)
    for step, delta in deltas.items():
        part, dW = table[table["step"] == step], delta.dense()
        error = 2 * numerics.basis_error(W0, 9) * np.sum(dW**2) / whole
        np.testing.assert_allclose(part["left"], ((U.T @ dW) ** 2).sum(axis=1) / whole, rtol=0, atol=error)
        np.testing.assert_allclose(part["right"], ((dW @ Vt.T) ** 2).sum(axis=0) / whole, rtol=0, atol=error)
        np.testing.assert_allclose(part["left_share"] * np.sum(dW**2), part["left"] * whole)
        np.testing.assert_allclose(part["left_null"], np.sum(dW**2) / whole / 12)
        np.testing.assert_allclose(part["right_null"], np.sum(dW**2) / whole / 9)
        np.testing.assert_allclose(part["relative_norm"], np.linalg.norm(dW) / np.linalg.norm(W0))


def test_an_update_that_has_not_begun_has_no_energy(W0):
    table = checkpoint_table(decompose(W0), {0: LowRankDelta(np.zeros((12, 1)), np.ones((1, 9)))})
    assert (table[["left", "right", "relative_norm"]] == 0).all(axis=None)
    assert table["left_share"].isna().all()
