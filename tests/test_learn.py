"""The small weight of the page Learn, against dense float64 references and its own promises."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from hiplora import learn
from hiplora.budget import budget_cost, tightness
from hiplora.tuner.functional import within_budget
from tests import numerics
from tests.measures import dense_reference as reference

ANGLE = st.floats(0, 90)
PRINCIPAL = st.integers(1, learn.PRINCIPAL_RANK)
RESIDUAL = st.integers(learn.PRINCIPAL_RANK + 1, min(learn.SHAPE))
ENTRY = st.floats(-0.2, 0.2)
EPSILON = st.floats(0.01, 0.2)
POWER = st.floats(0, 2)
# What keeping the 16 singular vectors of either side in float32 leaves of them.
KEPT = 2 * numerics.kept_error(16)
DRAWS = 50_000
# Five standard errors of the quotient of two root mean squares, each of one direction at least.
DRAWN = 5 / DRAWS**0.5
SHARE = st.floats(0, 1)


def rms_ratio(top, bottom, inputs):
    return np.sqrt(np.mean(np.sum((top @ inputs) ** 2, axis=0)) / np.mean(np.sum((bottom @ inputs) ** 2, axis=0)))


def drawn():
    return np.random.default_rng(1).normal(size=(min(learn.SHAPE), DRAWS))


def test_the_spectrum_falls_as_one_over_the_direction():
    singular = np.linalg.svd(learn.small_weight(), compute_uv=False)
    np.testing.assert_allclose(singular, 1 / np.arange(1, 17))


@given(ANGLE, PRINCIPAL, RESIDUAL)
def test_turning_an_update_keeps_its_size_and_moves_its_energy_between_two_directions(angle, p, q):
    size = np.linalg.norm(learn.rotated_update(angle, p, q).dense())
    assert size == pytest.approx(0.1 * np.linalg.norm(learn.small_weight()), rel=KEPT)
    table = learn.rotation_directions(angle, p, q).set_index("direction")
    for side in ("left", "right"):
        assert table[side].sum() == pytest.approx(1, abs=KEPT)
        assert table[side][p] == pytest.approx(np.cos(np.radians(angle)) ** 2, abs=KEPT)
        assert table[side][q] == pytest.approx(np.sin(np.radians(angle)) ** 2, abs=KEPT)


@pytest.mark.parametrize(("p", "q"), [(1, 12), (3, 16)])
def test_effects_are_those_on_inputs_drawn_at_random(p, q):
    W0, z = learn.small_weight(), drawn()
    _, s, V = reference.bases(W0, 16)
    typical, rare = V @ (s[:, None] * z), V[:, learn.PRINCIPAL_RANK :] @ z[learn.PRINCIPAL_RANK :]
    for row in learn.rotation_effects(p, q, angles=(0, 35, 90)).itertuples():
        dW = learn.rotated_update(row.angle, p, q).dense()
        error = KEPT * np.linalg.norm(dW, 2) / np.linalg.svd(W0, compute_uv=False)[-1]
        assert row.typical == pytest.approx(rms_ratio(dW, W0, typical), rel=DRAWN)
        assert row.rare == pytest.approx(rms_ratio(dW, W0, rare), rel=DRAWN, abs=error)


@pytest.mark.parametrize(("p", "q", "rare_share"), [(1, 12, 0.05), (3, 16, 0.3)])
def test_effect_over_all_inputs_is_that_on_a_mixture_drawn_at_random(p, q, rare_share):
    W0, z = learn.small_weight(), drawn()
    _, s, V = reference.bases(W0, 16)
    rare = np.random.default_rng(2).random(DRAWS) < rare_share
    tail = (np.arange(16) >= learn.PRINCIPAL_RANK)[:, None]
    x = V @ (np.where(rare, tail, s[:, None]) * z)
    for row in learn.rotation_effects(p, q, angles=(0, 35, 90), rare_share=rare_share).itertuples():
        dW = learn.rotated_update(row.angle, p, q).dense()
        # Where rare inputs alone carry a mean square, its variance is (3 / f - 1) / 2 times that of a single direction.
        assert row.all == pytest.approx(rms_ratio(dW, W0, x), rel=DRAWN * (1.5 / rare_share) ** 0.5)


@given(ANGLE, PRINCIPAL, RESIDUAL, SHARE)
def test_effect_over_all_inputs_is_that_of_the_dense_second_moment(angle, p, q, rare_share):
    W0, dW = learn.small_weight(), learn.rotated_update(angle, p, q).dense()
    _, s, V = reference.bases(W0, 16)
    tail = np.arange(16) >= learn.PRINCIPAL_RANK
    M = V @ np.diag((1 - rare_share) * s**2 + rare_share * tail) @ V.T
    expected = np.sqrt(np.trace(dW @ M @ dW.T) / np.trace(W0 @ M @ W0.T))
    error = KEPT * np.linalg.norm(dW, 2) / np.linalg.svd(W0, compute_uv=False)[-1]
    row = learn.rotation_effects(p, q, angles=(angle,), rare_share=rare_share).iloc[0]
    assert row["all"] == pytest.approx(expected, rel=4 * KEPT, abs=error)
    assert row["rare_share"] == rare_share


@pytest.mark.parametrize("p", range(1, learn.PRINCIPAL_RANK + 1))
def test_a_residual_update_costs_less_over_all_inputs_until_rare_ones_come_too_often(p):
    """The mean squares along the two directions are equal at `(1 - f) / p^2 = (1 - f) / q^2 + f`."""
    q = 12
    gap = 1 / p**2 - 1 / q**2
    turning = gap / (1 + gap)
    for share, falls in ((0.9 * turning, True), (1.1 * turning, False)):
        effects = learn.rotation_effects(p, q, angles=range(0, 91, 10), rare_share=share)["all"]
        assert effects.is_monotonic_decreasing == falls
        assert effects.is_monotonic_increasing != falls


def test_blocks_of_the_turned_update_are_those_of_the_dense_matrix():
    U, _, V = reference.bases(learn.small_weight(), learn.PRINCIPAL_RANK)
    error = 4 * numerics.basis_error(learn.small_weight(), learn.PRINCIPAL_RANK)
    row = learn.rotation_effects(2, 9, angles=(40,)).iloc[0]
    dW = learn.rotated_update(40, 2, 9).dense()
    for block, energy in reference.blocks(dW, U, V).items():
        assert row[block] == pytest.approx(energy / reference.energy(dW), abs=error)


@given(PRINCIPAL, RESIDUAL)
def test_a_principal_update_disturbs_typical_inputs_most_and_a_residual_one_rare_inputs(p, q):
    effects = learn.rotation_effects(p, q, angles=range(0, 91, 10))
    assert effects["typical"].is_monotonic_decreasing
    assert effects["rare"].is_monotonic_increasing
    # An update of a tenth of the weight, on inputs that the weight answers with its least singular values.
    rare = np.linalg.norm(1 / np.arange(learn.PRINCIPAL_RANK + 1, 17))
    assert effects["rare"].iloc[0] < KEPT * 0.1 * np.linalg.norm(learn.small_weight()) / rare
    assert effects["rare"].iloc[-1] > 2 * effects["typical"].iloc[0]


@given(ENTRY, EPSILON, POWER)
def test_every_point_of_the_section_has_spent_the_budget(c12, epsilon, power):
    sigma = 1 / np.arange(1, 3)
    points = learn.budget_sections((c12,), epsilon, power)
    alone = tightness(budget_cost(np.array([[0, c12], [0, 0]]), sigma, power), epsilon)
    assert (len(points) > 0) == (alone < 1)
    for point in points.iloc[::20].itertuples():
        core = np.array([[point.c11, point.c12], [0, point.c22]])
        assert np.sqrt(reference.cost(core, sigma, power)) / epsilon == pytest.approx(1, rel=numerics.EXACT)


@given(ENTRY, ENTRY, ENTRY, EPSILON, POWER)
def test_effective_core_is_the_one_that_the_tuner_uses(c11, c22, c12, epsilon, power):
    raw, effective = learn.budget_cores(c11, c22, c12, epsilon, power).to_dict("records")
    core = torch.tensor([[c11, c12], [0.0, c22]], dtype=torch.float64)
    used = within_budget(core, torch.tensor([1.0, 0.5], dtype=torch.float64), power, epsilon).numpy()
    entries = np.array([[effective["c11"], effective["c12"]], [0, effective["c22"]]])
    np.testing.assert_allclose(entries, used, rtol=numerics.EXACT, atol=1e-12)
    assert (raw["c11"], raw["c22"], raw["c12"]) == (c11, c22, c12)
    assert effective["tightness"] == pytest.approx(min(1, raw["tightness"]), abs=numerics.EXACT)


def test_soft_mode_charges_lambda_times_the_cost():
    raw = learn.budget_cores(0.1, 0.04, 0.02, penalty=3).iloc[0]
    cost = reference.cost(np.array([[0.1, 0.02], [0, 0.04]]), np.array([1, 0.5]))
    assert raw["cost"] == pytest.approx(cost)
    assert raw["charge"] == pytest.approx(3 * cost)


@given(ANGLE)
def test_both_updates_of_a_merge_have_one_size(angle):
    for delta in learn.merged_updates(angle).values():
        assert np.linalg.norm(delta.dense()) == pytest.approx(0.1 * np.linalg.norm(learn.small_weight()), rel=KEPT)


@pytest.mark.parametrize("angle", [0, 25, 90])
def test_merge_effects_are_those_of_the_dense_matrices_on_inputs_drawn_at_random(angle):
    W0, z = learn.small_weight(), drawn()
    first, second = (delta.dense() for delta in learn.merged_updates(angle).values())
    row = learn.merge_effects((angle,)).iloc[0]
    error = KEPT * np.linalg.norm(first, 2) / np.linalg.svd(first, compute_uv=False)[1]
    # An update of two equal singular values reacts to its two right singular vectors alike.
    first_inputs, second_inputs = (np.linalg.svd(dW)[2][:2].T @ z[:2] for dW in (first, second))
    assert row["first_error"] == pytest.approx(rms_ratio(second, first, first_inputs), rel=DRAWN, abs=error)
    assert row["second_error"] == pytest.approx(rms_ratio(first, second, second_inputs), rel=DRAWN, abs=error)
    _, s, V = reference.bases(W0, 16)
    typical = V @ (s[:, None] * z)
    assert row["typical_first"] == pytest.approx(rms_ratio(first, W0, typical), rel=DRAWN)
    assert row["typical_merged"] == pytest.approx(rms_ratio(first + second, W0, typical), rel=DRAWN)
    assert row["cosine"] == pytest.approx(np.sum(first * second) / np.sum(first**2), abs=KEPT)


def test_merging_on_shared_directions_costs_a_whole_task_and_on_own_ones_nothing():
    effects = learn.merge_effects((0, 90))
    assert effects["first_error"].tolist() == pytest.approx([1, 0], abs=KEPT)
    assert effects["overlap_right"].tolist() == pytest.approx([1, 0], abs=KEPT)
    assert effects["cosine"].iloc[0] == pytest.approx(0.5)
    assert effects["joint_tightness"].is_monotonic_decreasing


def moments_of_inputs(use):
    """Return `M` of inputs of strength `use` along `v_1` and 1 along every other direction, by a dense SVD."""
    _, _, V = reference.bases(learn.small_weight(), 16)
    return V @ np.diag([use**2, *[1.0] * 15]) @ V.T


@given(RESIDUAL)
def test_update_on_a_direction_that_no_input_uses_has_no_effect_at_all(q):
    weights, inputs = learn.two_views(0, 0.0, q).to_dict("records")
    assert weights["enrichment"] == pytest.approx(16 * 24 / 4**2, rel=KEPT)
    assert inputs["relative_norm"] == 0
    assert np.isnan(inputs["pp"])
    assert learn.input_damages(0, q, uses=(0.0,))["damage"].item() < KEPT**2


@given(ANGLE, RESIDUAL)
def test_without_the_strong_direction_only_the_rest_of_the_update_counts(angle, q):
    row = learn.input_damages(angle, q, uses=(0.0,)).iloc[0]
    size = np.sum(learn.rotated_update(angle, 1, q).dense() ** 2) / np.sum(1 / np.arange(2, 17) ** 2)
    assert row["damage"] == pytest.approx(np.sin(np.radians(angle)) ** 2 * size, abs=KEPT)


@pytest.mark.parametrize(("angle", "use"), [(0, 0.4), (35, 1.0), (70, 2.5)])
def test_views_and_damage_are_those_of_dense_matrices(angle, use):
    W0, dW, M = learn.small_weight(), learn.rotated_update(angle).dense(), moments_of_inputs(use)
    row = learn.input_damages(angle, uses=(use,)).iloc[0]
    assert row["damage"] == pytest.approx(np.trace(dW @ M @ dW.T) / np.trace(W0 @ M @ W0.T), rel=4 * KEPT)
    values, Q = np.linalg.eigh(M)
    K = Q @ np.diag(np.sqrt(values)) @ Q.T
    for found, (weight, change) in zip(
        learn.two_views(angle, use).itertuples(), ((W0, dW), (W0 @ K, dW @ K)), strict=True
    ):
        U, _, V = reference.bases(weight, learn.PRINCIPAL_RANK)
        expected = reference.blocks(change, U, V)["pp"] / reference.energy(change)
        assert found.pp == pytest.approx(expected, abs=4 * numerics.basis_error(weight, learn.PRINCIPAL_RANK))
        assert found.relative_norm == pytest.approx(np.linalg.norm(change) / np.linalg.norm(weight), rel=4 * KEPT)


def test_null_of_the_damage_is_that_of_random_directions():
    """Of a random direction's energy a Beta(1/2, 15/2) lies along the one that no input uses."""
    row = learn.input_damages(0, uses=(0.0,)).iloc[0]
    whole = 0.1**2 * np.sum(1 / np.arange(1, 17) ** 2) / np.sum(1 / np.arange(2, 17) ** 2)
    assert row["null"] == pytest.approx(whole * 15 / 16, rel=4 * KEPT)
    low, high = whole * (1 - stats.beta(1 / 2, 15 / 2).ppf([0.975, 0.025]))
    # Five standard errors of a quantile of 4000 draws, by the density there.
    density = stats.beta(1 / 2, 15 / 2).pdf(stats.beta(1 / 2, 15 / 2).ppf([0.975, 0.025]))
    error = 5 * whole * np.sqrt(0.025 * 0.975 / 4000) / density
    assert row["null_low"] == pytest.approx(low, abs=error[0])
    assert row["null_high"] == pytest.approx(high, abs=error[1])
