"""The second moment of a map's inputs, and its root."""

import numpy as np
import pytest
import torch

from hiplora.geometry import Moments, moments_of
from hiplora.geometry.moments import COMPLETE_UP_TO, LEADING, RIDGE
from tests import numerics


def inputs(tokens, n, seed=0):
    """Inputs with a steep spectrum, as those of a language model."""
    rng = np.random.default_rng(seed)
    mixed = rng.normal(size=(tokens, n)) * np.arange(1, n + 1) ** -1.0
    return mixed @ np.linalg.qr(rng.normal(size=(n, n)))[0]


def test_all_components_of_a_small_input_are_the_second_moment_with_its_ridge():
    X = inputs(200, 24)
    moments = moments_of(torch.from_numpy(X))
    M = X.T @ X / 200
    root = moments.root(np.eye(24))
    # The components are kept in float32, of unit length: each may turn by sqrt(n) roundings of an entry.
    bound = 4 * 24**0.5 * numerics.unit_roundoff("float32") * np.linalg.norm(M, 2)
    np.testing.assert_allclose(root @ root, M + RIDGE * np.trace(M) / 24 * np.eye(24), rtol=0, atol=bound)
    np.testing.assert_allclose(root, root.T, rtol=0, atol=bound)
    assert moments.trace == pytest.approx(np.trace(M) * (1 + RIDGE), rel=numerics.EXACT)
    assert moments.square == pytest.approx(np.sum((M + RIDGE * np.trace(M) / 24 * np.eye(24)) ** 2), rel=1e-9)
    assert (moments.error, moments.rest) == (0.0, 0.0)


def test_what_is_left_out_of_a_large_input_is_measured_and_its_size_kept():
    X = inputs(300, COMPLETE_UP_TO + 52)
    moments = moments_of(torch.from_numpy(X).float())
    M = X.T @ X / 300
    held = moments.root(np.eye(len(M)))
    held = held @ held
    # 300 tokens have 300 components at most, of which all are held.
    assert len(moments.values) == 300 < LEADING
    assert moments.trace == pytest.approx(np.trace(M), rel=1e-4)
    assert moments.error == pytest.approx(np.linalg.norm(held - M) / np.linalg.norm(M), abs=1e-5)
    assert moments.error < 1e-4


def test_more_components_than_are_held_count_as_isotropic():
    n = COMPLETE_UP_TO + 2
    X = np.random.default_rng(0).normal(size=(1200, n))
    moments = moments_of(torch.from_numpy(X).float())
    M = X.T @ X / 1200
    held = moments.root(np.eye(n))
    held = held @ held
    assert len(moments.values) == LEADING
    assert moments.trace == pytest.approx(np.trace(M), rel=1e-4)
    assert moments.error == pytest.approx(np.linalg.norm(held - M) / np.linalg.norm(M), abs=1e-4)
    # White noise has no leading components: much of it is missed, and that is said.
    assert moments.error > 0.2


@pytest.mark.parametrize("n", [24, COMPLETE_UP_TO + 2])
def test_the_halves_of_a_text_are_compared(n):
    X = inputs(60, n)
    same = moments_of(torch.from_numpy(np.vstack([X, X])))
    first, second = X.copy(), 2 * X
    other = moments_of(torch.from_numpy(np.vstack([first, second])))
    assert same.difference == pytest.approx(0, abs=1e-6)
    # M_2 = 4 M_1, and the whole is 2.5 M_1.
    assert other.difference == pytest.approx(3 / 2.5, rel=1e-5)


def test_a_root_of_low_rank_updates_does_not_form_the_matrix():
    moments = Moments(np.eye(3, 5, dtype=np.float32), np.array([9.0, 4.0, 1.0]), rest=0.25)
    np.testing.assert_allclose(moments.root(np.ones((1, 5))), [[3, 2, 1, 0.5, 0.5]])
    assert moments.trace == 14.5
    assert moments.square == 81 + 16 + 1 + 2 * 0.0625


def test_the_digest_tells_moments_apart():
    X = torch.from_numpy(inputs(60, 8))
    assert moments_of(X).digest == moments_of(X.clone()).digest
    assert moments_of(X).digest != moments_of(X * 2).digest
