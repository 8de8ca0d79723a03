"""Each way against a dense float64 reference, written here from its published definition."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hiplora.adapters import DenseDelta, LowRankDelta
from hiplora.budget import budget_cost, tightness
from hiplora.merging import WAYS, Site
from hiplora.merging.space import CoreSpace
from hiplora.settings import MERGE_WAYS
from tests import numerics

M, N = 24, 18
EXACT = numerics.EXACT


def updates(seed=0, ranks=(2, 3), shape=(M, N)):
    """Low-rank updates of one weight, with factors of very different scales."""
    rng = np.random.default_rng(seed)
    return [LowRankDelta(10.0**t * rng.normal(size=(shape[0], r)), 0.1**t * rng.normal(size=(r, shape[1])))
            for t, r in enumerate(ranks)]  # fmt: skip


def site(count=2, **settings):
    return Site("layer", tuple("abcdef"[:count]), **settings)


def agree(found, expected):
    np.testing.assert_allclose(found.dense(), expected, rtol=0, atol=EXACT * np.abs(expected).max())


# The published definitions, on dense matrices.


def trim(matrix, density):
    """Keep the entries of largest magnitude (TIES, algorithm 1)."""
    order = np.argsort(-np.abs(matrix), axis=None)
    kept = np.zeros(matrix.size)
    kept[order[: int(density * matrix.size)]] = 1
    return matrix * kept.reshape(matrix.shape)


def ties(matrices, density):
    """Yadav et al. 2023, algorithm 1."""
    trimmed = np.stack([trim(matrix, density) for matrix in matrices])
    elected = np.where(trimmed.sum(axis=0) >= 0, 1, -1)
    agree = np.sign(trimmed) == elected
    return (trimmed * agree).sum(axis=0) / np.maximum(agree.sum(axis=0), 1)


def svd(matrix):
    U, s, Vt = np.linalg.svd(matrix, full_matrices=False)
    rank = int(np.sum(s > 1e-10 * s[0]))
    return U[:, :rank], s[:rank], Vt[:rank]


def knots(matrices, density):
    """Stoica et al. 2024, section 4, with TIES on `S V_t` as in their code."""
    U, s, Vt = svd(np.hstack(matrices))
    parts = np.split(s[:, None] * Vt, len(matrices), axis=1)
    return U @ ties(parts, density)


def core_space(matrices, density):
    """Panariello et al. 2025, section 4, on balanced factors."""
    factors = [(U * np.sqrt(s), np.sqrt(s)[:, None] * Vt) for U, s, Vt in map(svd, matrices)]
    U = svd(np.hstack([B for B, _ in factors]))[0]
    Vt = svd(np.vstack([A for _, A in factors]))[2]
    return U @ ties([U.T @ B @ A @ Vt.T for B, A in factors], density) @ Vt


def tsv(matrices):
    """Gargiulo et al. 2025, algorithm 1: whitening by Procrustes."""
    kept = min(matrices[0].shape) // len(matrices)
    parts = [(U[:, :kept], s[:kept], Vt[:kept]) for U, s, Vt in map(svd, matrices)]
    U, Vt = np.hstack([part[0] for part in parts]), np.vstack([part[2] for part in parts])
    (P_u, _, Q_u), (P_v, _, Q_v) = (np.linalg.svd(matrix, full_matrices=False) for matrix in (U, Vt))
    return P_u @ Q_u @ np.diag(np.concatenate([part[1] for part in parts])) @ P_v @ Q_v


def iso_c(matrices):
    """Marczak et al. 2025, equation 5, over the rank of the sum."""
    U, s, Vt = svd(sum(matrices))
    return U @ np.diag(np.full(len(s), s.mean())) @ Vt


def orthogonal(matrices):
    """The projection of Tang et al. 2025 as in their code, over the rank of the merge so far."""
    merged = matrices[0]
    for matrix in matrices[1:]:
        U, s, Vt = svd(merged)
        inside = U.T @ matrix @ Vt.T
        cleaned = inside.copy()
        np.fill_diagonal(cleaned, 0)
        split = int(np.argmax(np.cumsum(s) / s.sum() > 0.5))
        cleaned[:split, :split] = 0
        merged = merged + matrix + U @ (cleaned - inside) @ Vt
    return merged


REFERENCES = {
    "sum": lambda matrices, density: sum(matrices),
    "magnitude": lambda matrices, density: sum(trim(matrix, density) for matrix in matrices),
    "ties": ties,
    "knots": knots,
    "core-space": core_space,
    "tsv": lambda matrices, density: tsv(matrices),
    "iso-c": lambda matrices, density: iso_c(matrices),
    "orthogonal": lambda matrices, density: orthogonal(matrices),
}


@pytest.mark.parametrize("key", REFERENCES)
@pytest.mark.parametrize("ranks", [(2, 3), (4, 1, 3), (2, 2, 2, 2)])
@pytest.mark.parametrize("shape", [(M, N), (N, M)])
def test_a_way_is_its_published_definition(key, ranks, shape):
    deltas = updates(1, ranks, shape)
    found = WAYS[key].merge(deltas, site(len(ranks), density=0.3))
    agree(found, REFERENCES[key]([delta.dense() for delta in deltas], 0.3))


@pytest.mark.parametrize("key", REFERENCES)
def test_dense_updates_are_merged_by_the_same_definition(key):
    """Of dense updates of low rank: in the full space the result is that of the core space."""
    deltas = updates(2, (3, 4))
    dense = [DenseDelta(delta.dense()) for delta in deltas]
    agree(WAYS[key].merge(dense, site(density=0.4)), WAYS[key].merge(deltas, site(density=0.4)).dense())


def test_updates_that_fill_the_weight_are_merged_in_square_bases():
    deltas = updates(3, (10, 12))
    found = WAYS["core-space"].merge(deltas, site(density=0.3))
    agree(found, core_space([delta.dense() for delta in deltas], 0.3))


@pytest.mark.parametrize("key", ["knots", "core-space", "tsv", "iso-c", "orthogonal"])
def test_parts_that_cancel_change_nothing(key, rng):
    """An update written with a part that is added and taken off again is the same update."""
    first, second = updates(4)
    part = LowRankDelta(rng.normal(size=(M, 2)), rng.normal(size=(2, N)))
    found, expected = (WAYS[key].merge([each, second], site(density=0.3)) for each in (first + part - part, first))
    agree(found, expected.dense())


@pytest.mark.parametrize("key", list(REFERENCES))
@pytest.mark.parametrize("zero", [LowRankDelta.zero((M, N)), 0 * updates(5)[0], DenseDelta(np.zeros((M, N)))])
def test_an_update_of_zeros_has_no_say(key, zero):
    deltas = updates(5, (3, 4))
    agree(WAYS[key].merge([deltas[0], zero, deltas[1]], site(3, density=0.3)),
          WAYS[key].merge(deltas, site(density=0.3)).dense())  # fmt: skip
    assert not WAYS[key].merge([zero, zero], site(density=0.3)).dense().any()


def test_singular_vectors_of_one_row_space_are_not_completed_at_random():
    """Where adapters share their `A`, the result stays in its rows; an update given twice comes out once."""
    rng = np.random.default_rng(6)
    R = np.geomspace(1, 1e-4, 3)[:, None] * rng.normal(size=(3, N))
    deltas = [LowRankDelta(rng.normal(size=(M, 3)), R) for _ in range(2)]
    found = WAYS["tsv"].merge(deltas, site()).dense()
    Q = svd(R)[2].T
    agree(DenseDelta(found @ Q @ Q.T), found)
    agree(WAYS["tsv"].merge([deltas[0], deltas[0]], site()), deltas[0].dense())


@pytest.mark.parametrize("key", ["sum", "core", "knots", "core-space", "tsv", "iso-c", "orthogonal"])
def test_low_rank_stays_low_rank(key):
    found = WAYS[key].merge(updates(ranks=(2, 3)), site())
    assert isinstance(found, LowRankDelta)
    assert found.rank <= 5


@pytest.mark.parametrize("key", [key for key in WAYS if key != "iso-c"])
@pytest.mark.parametrize("dense", [False, True])
def test_one_update_comes_out_as_it_went_in(key, dense):
    (delta,) = updates(ranks=(3,))
    given = DenseDelta(delta.dense()) if dense else delta
    agree(WAYS[key].merge([given], site(1)), delta.dense())


def test_core_space_loses_nothing():
    deltas = updates(ranks=(2, 3, 1))
    space = CoreSpace.of(deltas)
    assert space.core(deltas[0]).shape == (6, 6)
    for delta in deltas:
        agree(space.back(space.core(delta)), delta.dense())


def test_core_space_does_not_depend_on_how_an_update_is_factored():
    deltas = updates()
    other = [LowRankDelta(7 * delta.L, delta.R / 7) for delta in deltas]
    first, second = (WAYS["core-space"].merge(each, site(density=0.3)) for each in (deltas, other))
    agree(first, second.dense())


def test_dare_keeps_entries_rescaled_or_drops_them():
    deltas = updates()
    total = np.zeros((M, N))
    for count, delta in enumerate(deltas, start=1):
        found = WAYS["dare"].merge(deltas[:count], site(count, density=0.25)).dense() - total
        kept = np.abs(found) > 1e-9
        agree(DenseDelta(found), np.where(kept, delta.dense() / 0.25, 0))
        # Five standard deviations of the number kept.
        assert abs(kept.mean() - 0.25) < 5 * np.sqrt(0.25 * 0.75 / kept.size)
        total += found


def test_dare_draws_the_same_again_and_another_mask_for_each_seed_module_and_update():
    (delta,) = updates(ranks=(3,))
    way = WAYS["dare"]
    first = way.merge([delta], Site("layer", ("a",), 0.5, 0)).dense()
    np.testing.assert_array_equal(way.merge([delta], Site("layer", ("a",), 0.5, 0)).dense(), first)
    for other in (Site("layer", ("a",), 0.5, 1), Site("next", ("a",), 0.5, 0), Site("layer", ("b",), 0.5, 0)):
        assert (way.merge([delta], other).dense() != first).any()


@pytest.mark.parametrize("key", [key for key, way in WAYS.items() if not way.ordered])
@settings(max_examples=5)
@given(seed=st.integers(0, 1000))
def test_order_does_not_matter(key, seed):
    deltas = updates(seed, (2, 1, 3))
    straight = WAYS[key].merge(deltas, site(3, density=0.3))
    turned = WAYS[key].merge(deltas[::-1], Site("layer", ("c", "b", "a"), density=0.3))
    agree(turned, straight.dense())


@given(seed=st.integers(0, 1000))
def test_what_is_added_orthogonally_is_orthogonal_to_the_merge_before_it(seed):
    first, second = updates(seed, (2, 3))
    added = WAYS["orthogonal"].merge([first, second], site()).dense() - first.dense()
    scale = np.linalg.norm(first.dense()) * np.linalg.norm(second.dense())
    assert abs(np.sum(added * first.dense())) <= EXACT * scale


@given(seed=st.integers(0, 1000), k=st.integers(1, 6), epsilon=st.floats(0.01, 10))
def test_the_joint_budget_is_never_exceeded_and_the_other_blocks_are_summed(seed, k, epsilon):
    rng = np.random.default_rng(seed)
    U, s, Vt = np.linalg.svd(rng.normal(size=(M, N)), full_matrices=False)
    Uk, sk, Vk = U[:, :k], s[:k], Vt[:k].T
    deltas = updates(seed, (2, 3))

    def spent(delta):
        return tightness(budget_cost(Uk.T @ delta.dense() @ Vk, sk), epsilon)

    found = WAYS["core"].merge(deltas, site(bases=lambda: (Uk.T, Vk.T), tightness=spent))
    total = sum(delta.dense() for delta in deltas)
    joint = tightness(budget_cost(Uk.T @ total @ Vk, sk), epsilon)
    assert spent(found) <= 1
    assert spent(found) == pytest.approx(min(joint, 1), rel=2e-6)
    block = Uk @ Uk.T @ total @ Vk @ Vk.T
    gain = 1 if joint <= 1 else (1 - 1e-6) / joint
    agree(found, total - (1 - gain) * block)


def test_the_keys_of_the_command_line_are_those_of_the_table():
    assert tuple(WAYS) == MERGE_WAYS
