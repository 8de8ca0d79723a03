"""All modules together by octave of direction, against sums over the dense updates."""

import numpy as np
import pytest

from hiplora.adapters import read_adapter
from hiplora.measures import null_of, octave_table
from hiplora.measures.null import beta_band
from hiplora.sources import open_base
from hiplora.spectrum import SpectrumCache
from hiplora.spectrum.prepare import BaseSpectra
from tests import numerics
from tests.measures import dense_reference as reference
from tests.placing import placed

OCTAVES = [(1, 1), (2, 2), (3, 4), (5, 8), (9, 16), (17, 32)]


@pytest.fixture(scope="module")
def spectra(llama_base, tmp_path_factory):
    return BaseSpectra(open_base(llama_base), SpectrumCache(tmp_path_factory.mktemp("cache")))


@pytest.fixture(scope="module")
def table(spectra, lora_folder):
    return octave_table(spectra, placed(spectra, read_adapter(lora_folder)), 4)


def test_octaves_double_and_the_rest_lies_beyond(table):
    assert list(zip(table["start"], table["end"].astype(object), strict=True))[:-1] == OCTAVES
    assert table["start"].iloc[-1] == 0


@pytest.mark.parametrize("side", ["left", "right"])
def test_each_share_is_the_sum_over_the_dense_updates(table, spectra, lora_folder, side):
    adapter = read_adapter(lora_folder)
    sums, chance, total, error = np.zeros(len(OCTAVES)), np.zeros(len(OCTAVES)), 0.0, 0.0
    for module in adapter.modules:
        W0 = spectra.base.read(spectra.base.weights[module]).astype(np.float64)
        dW = adapter.delta(module).dense()
        U, _, V = reference.bases(W0, min(W0.shape))
        energies = ((U.T @ dW) ** 2).sum(axis=1) if side == "left" else ((dW @ V) ** 2).sum(axis=0)
        size = W0.shape[0] if side == "left" else W0.shape[1]
        for i, (start, end) in enumerate(OCTAVES):
            sums[i] += energies[start - 1 : end].sum()
            chance[i] += reference.energy(dW) * len(energies[start - 1 : end]) / size
        total += reference.energy(dW)
        error += 2 * numerics.basis_error(W0, min(W0.shape)) * reference.energy(dW)
    np.testing.assert_allclose(table[side].iloc[:-1], sums / total, rtol=0, atol=error / total)
    np.testing.assert_allclose(table[f"{side}_null"].iloc[:-1], chance / total)
    assert (table[f"{side}_null_low"] <= table[f"{side}_null"]).all()
    assert (table[f"{side}_null"] <= table[f"{side}_null_high"]).all()


def test_shares_and_chance_add_up_to_one(table):
    for column in ("left", "right", "left_null", "right_null"):
        assert table[column].sum() == pytest.approx(1, abs=numerics.kept_error(32)), column


def test_random_updates_stay_in_the_band_of_chance(table):
    inside = [
        table[side].iloc[:-1].between(table[f"{side}_null_low"].iloc[:-1], table[f"{side}_null_high"].iloc[:-1])
        for side in ("left", "right")
    ]
    # Of twelve bands of 95 % no more than a few are left.
    assert np.sum(inside) >= 9


def test_an_adapter_of_zeros_has_no_shares(spectra, lora_folder, changed_copy):
    def zero(tensors):
        return {key: 0 * tensor for key, tensor in tensors.items()}

    table = octave_table(spectra, placed(spectra, read_adapter(changed_copy(lora_folder, "zero", zero))), 4)
    assert table[["left", "right"]].isna().all(axis=None)


@pytest.mark.parametrize("copies", [1, 2])
def test_the_band_is_that_of_independent_modules(write_base, write_adapter, tmp_path, rng, copies):
    W0, A, B = (rng.normal(size=size).astype(np.float32) for size in ((12, 8), (2, 8), (12, 2)))
    names = [f"model.layers.{i}.q_proj" for i in range(copies)]
    base = open_base(write_base("base", dict.fromkeys(names, W0)))
    prefix = "base_model.model."
    factors = {f"{prefix}{name}.lora_{half}.weight": array for name in names for half, array in (("A", A), ("B", B))}
    adapter = read_adapter(write_adapter("adapter", factors, base_model_name_or_path="base"))
    spectra = BaseSpectra(base, SpectrumCache(tmp_path / "cache"))
    table = octave_table(spectra, placed(spectra, adapter), 2)
    parts = np.linalg.svd(B.astype(np.float64) @ A, compute_uv=False)[:2] ** 2
    alone = null_of(np.array([1, 1, 2, 4, 4]), W0.shape, parts / parts.sum(), "left")
    # The mean of two equal and independent shares varies half as much as each.
    band = beta_band(alone.mean, alone.sd**2 / copies)
    np.testing.assert_allclose(table["left_null_low"], band.low)
    np.testing.assert_allclose(table["left_null_high"], band.high)
