"""The bounds of the tests, against errors that are made on purpose or known from more digits."""

import numpy as np
import pytest
import torch

from hiplora.spectrum import decompose
from tests import numerics


@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.float16, torch.float32, torch.float16, torch.bfloat16])
def test_the_unit_roundoff_is_half_the_step_behind_one(dtype):
    info = torch.finfo(dtype) if isinstance(dtype, torch.dtype) else np.finfo(dtype)
    assert numerics.unit_roundoff(dtype) == info.eps / 2


def test_products_stay_within_their_bound_and_come_near_it(rng):
    A, B = (np.abs(rng.normal(size=(60, 60))).astype(np.float32) for _ in range(2))
    error = np.abs(A @ B - A.astype(np.float64) @ B).max()
    assert 1e-3 * numerics.product_error(A, B, dtype="float32") < error < numerics.product_error(A, B, dtype="float32")


def test_vectors_and_subspaces_turn_within_their_bounds(rng):
    for _ in range(50):
        W, E = rng.normal(size=(9, 7)), rng.normal(size=(9, 7))
        E *= 1e-3 / np.linalg.norm(E, 2)
        U, sigma, _ = np.linalg.svd(W, full_matrices=False)
        V = np.linalg.svd(W + E, full_matrices=False)[0]
        V *= np.sign(np.sum(U * V, axis=0))
        assert np.all(np.linalg.norm(U - V, axis=0) <= numerics.vector_errors(sigma, 1e-3))
        for k in range(1, 8):
            turned = np.linalg.norm(U[:, :k] @ U[:, :k].T - V[:, :k] @ V[:, :k].T, 2)
            assert turned <= numerics.subspace_error(sigma, k, 1e-3)


def test_what_has_no_gap_has_no_bound():
    assert list(numerics.vector_errors([2.0, 1.0, 1.0], 1e-9)) == [4e-9, 2, 2]
    assert numerics.subspace_error([2.0, 1.0, 1.0], 2, 1e-9) == 1


def test_kept_vectors_are_orthonormal_and_where_they_were_within_their_bounds(rng):
    W = rng.normal(size=(40, 30))
    exact, kept = np.linalg.svd(W)[2][:8], decompose(W).Vt[:8].astype(np.float64)
    assert np.linalg.norm(kept @ kept.T - np.eye(8), 2) < numerics.kept_error(8)
    assert np.linalg.norm(kept - np.sign(np.sum(exact * kept, axis=1))[:, None] * exact) < numerics.basis_error(W, 8)


def test_standard_errors_are_those_of_repeated_draws(rng):
    draws = rng.exponential(size=(2000, 500))
    mean, spread = np.mean([numerics.standard_errors(row) for row in draws], axis=0)
    assert mean == pytest.approx(draws.mean(axis=1).std(), rel=0.05)
    assert spread == pytest.approx(draws.std(axis=1).std(), rel=0.15)


def test_the_outputs_of_a_network_stay_within_their_bound_and_come_near_it():
    torch.manual_seed(0)
    model, x = (
        torch.nn.Sequential(torch.nn.Linear(30, 50), torch.nn.Tanh(), torch.nn.Linear(50, 20)),
        torch.randn(9, 30),
    )
    bound = numerics.outputs_error(model, lambda model: model(x.to(model[0].weight.dtype)))
    before = model(x)
    error = (before.double() - model.double()(x.double())).abs().max().item()
    assert 1e-2 * bound < error < bound
