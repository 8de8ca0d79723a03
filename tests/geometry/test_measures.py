"""The measures of the weights on `W0 K` and `dW K`: what an update does on the inputs of a text."""

from dataclasses import fields

import numpy as np
import pandas as pd
import pytest
import torch

from hiplora.adapters import DenseDelta, LowRankDelta
from hiplora.geometry import effect, moments_of, with_inputs
from hiplora.measures import direction_table, layer_table, measure, sweep_table
from hiplora.spectrum import InputSpectrum, Spectrum, decompose
from tests import numerics

M_, N_, Q_, K_ = 20, 30, 4, 6


@pytest.fixture(scope="module")
def case():
    """A weight, an update and inputs with a steep spectrum."""
    rng = np.random.default_rng(0)
    W0, L, R = rng.normal(size=(M_, N_)), rng.normal(size=(M_, Q_)), rng.normal(size=(Q_, N_))
    X = (rng.normal(size=(400, N_)) * np.arange(1, N_ + 1) ** -0.7) @ np.linalg.qr(rng.normal(size=(N_, N_)))[0]
    return W0, LowRankDelta(L, R), X, moments_of(torch.from_numpy(X))


def through(W0, moments):
    return with_inputs(decompose(moments.root(W0)), moments)


# The components are kept in float32, and the triplets too: both turn the directions by some roundings of it.
ROUNDED = 1e3 * numerics.unit_roundoff("float32")


def test_the_relative_norm_is_the_change_of_the_output_over_the_output(case):
    W0, delta, X, moments = case
    found = measure(through(W0, moments), effect(delta, moments), K_)
    row = layer_table([found]).iloc[0]
    expected = np.linalg.norm(X @ delta.dense().T) / np.linalg.norm(X @ W0.T)
    assert row["relative_norm"] == pytest.approx(expected, rel=ROUNDED)
    assert row["norm"] == pytest.approx(np.linalg.norm(X @ delta.dense().T) / len(X) ** 0.5, rel=ROUNDED)


def test_blocks_are_those_of_a_dense_reference(case):
    W0, delta, X, moments = case
    K = np.linalg.cholesky(X.T @ X / len(X))
    U, s, Vt = np.linalg.svd(W0 @ K)
    D = delta.dense() @ K
    core = U[:, :K_].T @ D @ Vt[:K_].T
    found = measure(through(W0, moments), effect(delta, moments), K_)
    total = np.sum(D**2)
    np.testing.assert_allclose(found.sigma, s[:K_], rtol=ROUNDED)
    assert found.channels.pp / total == pytest.approx(np.sum(core**2) / total, abs=ROUNDED)
    assert found.channels.pr / total == pytest.approx(
        np.sum((U[:, :K_].T @ D) ** 2) / total - np.sum(core**2) / total, abs=ROUNDED
    )
    assert found.cost == pytest.approx(
        np.sum(np.outer(s[:K_] / s[0], s[:K_] / s[0]) * core**2) / np.sum((s[:K_] ** 2 / s[0]) ** 2), rel=ROUNDED
    )


def test_any_square_root_gives_the_same_numbers(case):
    W0, delta, _, moments = case
    K = moments.root(np.eye(N_)) @ np.linalg.qr(np.random.default_rng(1).normal(size=(N_, N_)))[0]
    plain = decompose(W0 @ K)
    g = K @ plain.Vt.T.astype(np.float64)
    other = InputSpectrum(
        **{field.name: getattr(plain, field.name) for field in fields(Spectrum)},
        gram=(g.T @ g / moments.trace).astype(np.float32),
        through=np.sum((K.T @ g) ** 2, axis=0) / moments.trace**2,
        spread=moments.square / moments.trace**2,
    )
    turned = LowRankDelta(delta.L, delta.R @ K, own=delta)
    first, second = (
        layer_table([measure(spectrum, change, K_)]).iloc[0]
        for spectrum, change in ((through(W0, moments), effect(delta, moments)), (other, turned))
    )
    numbers = [name for name, value in first.items() if isinstance(value, float) and not np.isnan(value)]
    assert {"relative_norm", "pp", "pp_null", "pp_null_low", "tightness", "enrichment", "stable_rank"} <= set(numbers)
    np.testing.assert_allclose(first[numbers].astype(float), second[numbers].astype(float), rtol=ROUNDED)


def test_dense_and_low_rank_effects_agree(case):
    W0, delta, _, moments = case
    spectrum = through(W0, moments)
    tables = [
        direction_table(spectrum, effect(each, moments)).drop(columns="adapter")
        for each in (delta, DenseDelta(delta.dense()))
    ]
    # Energies are squares: of those far below the largest, rounding is all there is.
    np.testing.assert_allclose(*(table.to_numpy(float) for table in tables), rtol=1e-7, atol=1e-9)


def test_isotropic_inputs_are_the_geometry_of_the_weights(case):
    W0, delta, _, _ = case
    X = np.sqrt(N_) * np.eye(N_)
    moments = moments_of(torch.from_numpy(X))
    here, weights = measure(through(W0, moments), effect(delta, moments), K_), measure(decompose(W0), delta, K_)
    one, other = (layer_table([found]).iloc[0] for found in (here, weights))
    for column in ("relative_norm", "pp", "pr", "rp", "rr", "pp_null", "enrichment", "enrichment_right", "tightness"):
        assert one[column] == pytest.approx(other[column], rel=1e-4), column
    # The variance takes vectors as normal, which differs in the order of 1/n.
    assert one["pp_null_sd"] == pytest.approx(other["pp_null_sd"], rel=8 / N_)


@pytest.fixture(scope="module")
def simulated(case):
    """Updates of the same singular values with random singular vectors, through the inputs."""
    W0, delta, _, moments = case
    spectrum, s = through(W0, moments), delta.singular_values
    rng, shares = np.random.default_rng(2), []
    Ut, Vt = (each[:K_].astype(np.float64) for each in (spectrum.Ut, spectrum.Vt))
    for _ in range(3000):
        a, b = (np.linalg.qr(rng.normal(size=(size, Q_)))[0] for size in (M_, N_))
        D = (a * s) @ moments.root(b.T)
        blocks = (Ut @ D @ Vt.T, Ut @ D, D @ Vt.T)
        shares.append([np.sum(block**2) / np.sum(D**2) for block in blocks])
    return dict(zip(("both", "left", "right"), np.array(shares).T, strict=True)), spectrum, delta


@pytest.mark.parametrize("side", ["both", "left", "right"])
def test_the_null_is_that_of_random_updates_through_the_inputs(simulated, side):
    shares, spectrum, delta = simulated
    row = direction_table(spectrum, delta).iloc[K_ - 1] if side != "both" else sweep_table(spectrum, delta).iloc[K_ - 1]
    name = "pp" if side == "both" else side
    mean, low, high = (row[f"{name}_{end}"] for end in ("null", "null_low", "null_high"))
    found = shares[side]
    # The mean is a ratio of means: off by the variance of the size of the effect, relative to its mean.
    assert mean == pytest.approx(found.mean(), rel=2 * np.sum(delta.parts**2) * spectrum.spread)
    assert 0.93 <= np.mean((found >= low) & (found <= high)) <= 0.995


def test_the_expected_share_is_that_of_independent_entries(case):
    W0, _, _, moments = case
    spectrum, rng = through(W0, moments), np.random.default_rng(3)
    Ut, Vt = (each[:K_].astype(np.float64) for each in (spectrum.Ut, spectrum.Vt))
    blocks, totals = [], []
    for _ in range(2000):
        D = moments.root(rng.normal(size=(M_, N_)))
        blocks.append(np.sum((Ut @ D @ Vt.T) ** 2))
        totals.append(np.sum(D**2))
    expected = np.mean(blocks) / np.mean(totals)
    found = sweep_table(spectrum, effect(LowRankDelta(np.ones((M_, 1)), np.ones((1, N_))), moments)).iloc[K_ - 1]
    standard_error = np.std(np.array(blocks) / np.mean(totals)) / 2000**0.5
    assert found["pp_null"] == pytest.approx(expected, abs=4 * standard_error)


def test_a_sweep_counts_from_its_null(case):
    W0, delta, _, moments = case
    table = sweep_table(through(W0, moments), effect(delta, moments))
    pd.testing.assert_series_equal(table["enrichment"], table["pp"] / table["pp_null"], check_names=False)
    # All directions of the outputs, of which the weight has fewer than inputs.
    assert table["pp_null"].iloc[-1] <= 1 + 1e-6
