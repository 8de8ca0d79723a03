import numpy as np
import pytest
from hypothesis import given

from hiplora.adapters import LowRankDelta
from hiplora.measures import channels
from hiplora.spectrum import decompose
from tests import numerics
from tests.measures import dense_reference as reference
from tests.measures.cases import cases


@given(cases())
def test_the_four_blocks_are_the_energies_of_the_projected_update(case):
    found = channels(case.delta, case.spectrum.Ut[: case.k], case.spectrum.Vt[: case.k])
    expected = reference.blocks(case.dW, case.U, case.V)
    # `U U^T` is a projector, and `U^T U` the identity, up to what is kept: once for each side.
    tolerance = 2 * numerics.kept_error(case.k) * reference.energy(case.dW)
    for block, energy in expected.items():
        assert getattr(found, block) == pytest.approx(energy, abs=tolerance), block


@given(cases(weights=("generic",)))
def test_the_blocks_agree_with_numpys_own_singular_vectors(case):
    U, _, V = reference.bases(case.W0, case.k)
    found = channels(case.delta, case.spectrum.Ut[: case.k], case.spectrum.Vt[: case.k])
    for block, energy in reference.blocks(case.dW, U, V).items():
        assert getattr(found, block) == pytest.approx(energy, abs=2 * case.turned * reference.energy(case.dW)), block


@given(cases())
def test_the_blocks_add_up_to_the_energy_of_the_update(case):
    found = channels(case.delta, case.spectrum.Ut[: case.k], case.spectrum.Vt[: case.k])
    assert found.total == pytest.approx(reference.energy(case.dW))
    # Three blocks come by difference and are cut off at zero.
    total = pytest.approx(found.total, rel=3 * numerics.kept_error(case.k))
    assert found.pp + found.pr + found.rp + found.rr == total
    assert min(found.pp, found.pr, found.rp, found.rr) >= 0


@given(cases())
def test_the_core_is_the_update_in_the_singular_bases(case):
    found = channels(case.delta, case.spectrum.Ut[: case.k], case.spectrum.Vt[: case.k])
    np.testing.assert_allclose(found.core, case.U.T @ case.dW @ case.V, rtol=0, atol=case.product_error)


@given(cases())
def test_a_dense_update_is_split_as_its_low_rank_form(case):
    heads = case.spectrum.Ut[: case.k], case.spectrum.Vt[: case.k]
    low_rank, dense = channels(case.delta, *heads), channels(case.dense, *heads)
    for block in ("pp", "pr", "rp", "rr", "total"):
        assert getattr(low_rank, block) == pytest.approx(getattr(dense, block), abs=case.energy_error), block
    np.testing.assert_allclose(low_rank.core, dense.core, rtol=0, atol=case.product_error)


def test_an_update_of_zeros_has_no_share_in_any_block(rng):
    spectrum = decompose(rng.normal(size=(6, 5)))
    found = channels(LowRankDelta(np.zeros((6, 2)), rng.normal(size=(2, 5))), spectrum.Ut[:2], spectrum.Vt[:2])
    assert found.total == 0
    assert all(np.isnan(found.share(block)) for block in ("pp", "pr", "rp", "rr"))


@pytest.mark.parametrize("block", ["pp", "pr", "rp", "rr"])
def test_an_update_inside_one_block_has_all_its_energy_there(rng, block):
    k, (m, n) = 3, (12, 9)
    spectrum = decompose(rng.normal(size=(m, n)))
    side = {"p": slice(0, k), "r": slice(k, 9)}
    L, R = spectrum.Ut[side[block[0]]].T, spectrum.Vt[side[block[1]]]
    mixer = rng.normal(size=(L.shape[1], R.shape[0]))
    found = channels(LowRankDelta(L @ mixer, R), spectrum.Ut[:k], spectrum.Vt[:k])
    assert found.share(block) == pytest.approx(1, abs=2 * numerics.kept_error(9))


@given(cases())
def test_a_truncated_split_is_the_split_by_fewer_directions(case):
    for k in range(1, case.k + 1):
        found = channels(case.delta, case.spectrum.Ut[: case.k], case.spectrum.Vt[: case.k]).truncate(k)
        alone = channels(case.delta, case.spectrum.Ut[:k], case.spectrum.Vt[:k])
        for block in ("pp", "pr", "rp", "rr", "total"):
            assert getattr(found, block) == pytest.approx(getattr(alone, block), abs=case.energy_error)
        np.testing.assert_allclose(found.core, alone.core, rtol=0, atol=case.product_error)


@pytest.mark.parametrize("k", [0, -1, 4])
def test_a_split_is_not_truncated_to_what_is_not_there(rng, k):
    spectrum = decompose(rng.normal(size=(6, 5))).truncate(3)
    found = channels(LowRankDelta(np.ones((6, 1)), np.ones((1, 5))), spectrum.Ut, spectrum.Vt)
    with pytest.raises(ValueError, match="k must be between 1 and 3"):
        found.truncate(k)
