import numpy as np
import pandas as pd
import pytest
from peft import LoraConfig

from hiplora.adapters import DenseDelta, LowRankDelta, place, read_adapter, read_updates
from hiplora.errors import HiploraError
from hiplora.measures import MEASURES, caveats_on, changed_weights, layer_table, measure, measure_layers
from hiplora.sources import open_base
from hiplora.spectrum import SpectrumCache, decompose
from hiplora.spectrum.prepare import BaseSpectra
from tests import numerics
from tests.measures import dense_reference as reference
from tests.placing import placed, row_of

K = 4
NOT_ENOUGH = "matching shapes are not enough to tell that they belong together."


@pytest.fixture(scope="module")
def spectra(llama_base, tmp_path_factory):
    return BaseSpectra(open_base(llama_base), SpectrumCache(tmp_path_factory.mktemp("cache")))


@pytest.fixture(scope="module")
def table(spectra, lora_folder):
    return layer_table(
        measure_layers(spectra, placed(spectra, read_adapter(lora_folder)), K, optional=[MEASURES["intruders"]])
    )


def test_one_row_per_adapter_and_module_in_data_order(table, spectra):
    assert list(table["module"]) == spectra.base.linear_maps
    assert set(table["adapter"]) == {"plain-lora"}
    assert set(table["method"]) == {"LoRA"}
    assert table[["layer", "kind", "rows", "cols", "rank", "principal_rank"]].iloc[8].tolist() == [
        1, "self_attn.k_proj", 16, 32, 4, K,
    ]  # fmt: skip


def test_every_column_is_that_of_the_dense_update_on_the_dense_weight(table, spectra, lora_folder):
    adapter = read_adapter(lora_folder)
    for row in table.to_dict("records"):
        W0 = spectra.base.read(spectra.base.weights[row["module"]]).astype(np.float64)
        dW = adapter.delta(row["module"]).dense()
        U, s, V = reference.bases(W0, K)
        (m, n), total = W0.shape, reference.energy(dW)
        left, right = reference.energy(U.T @ dW) / total, reference.energy(dW @ V) / total
        cost = reference.cost(U.T @ dW @ V, s)
        values = np.linalg.svd(dW, compute_uv=False)
        count, share = reference.intruders(W0, dW)
        error, (_, of_share) = reference.basis_errors(W0, dW, U, s, V), reference.intruder_errors(W0, dW)
        expected = {block: energy / total for block, energy in reference.blocks(dW, U, V).items()} | {
            "norm": np.linalg.norm(dW),
            "relative_norm": np.linalg.norm(dW) / np.linalg.norm(W0),
            "relative_spectral_norm": np.linalg.norm(dW, 2) / np.linalg.norm(W0, 2),
            "base_norm": np.linalg.norm(W0),
            "left_share": left,
            "right_share": right,
            "enrichment": reference.energy(U.T @ dW @ V) / total / (K * K / (m * n)),
            "enrichment_left": left / (K / m),
            "enrichment_right": right / (K / n),
            "pp_null": K * K / (m * n),
            "cost": cost,
            "epsilon": 0.05,
            "tightness": np.sqrt(cost) / 0.05,
            "stable_rank": total / values[0] ** 2,
        }
        for column, value in expected.items():
            assert row[column] == pytest.approx(value, rel=error), (row["module"], column)
        assert (row["intruders"], row["intruder_share"]) == (count, pytest.approx(share, abs=of_share))
        assert row["pp_null_low"] < row["pp_null"] < row["pp_null_high"]


def test_the_budget_may_be_set_for_all_and_its_power_too(spectra, lora_folder):
    measured = measure_layers(spectra, placed(spectra, read_adapter(lora_folder)), K)
    usual, tight, flat = layer_table(measured), layer_table(measured, epsilon=0.01), layer_table(measured, power=0)
    np.testing.assert_allclose(tight["tightness"], 5 * usual["tightness"])
    np.testing.assert_allclose(flat["cost"], [reference.cost(m.channels.core, m.sigma, 0) for m in measured])
    assert usual["intruders"].isna().all()


def test_a_truncated_measurement_is_that_at_the_smaller_k(spectra, lora_folder):
    adapter = read_adapter(lora_folder)
    wide = [
        measurement.truncate(K)
        for measurement in measure_layers(spectra, placed(spectra, adapter), 16, optional=[MEASURES["intruders"]])
    ]
    alone = measure_layers(spectra, placed(spectra, adapter), K, optional=[MEASURES["intruders"]])
    pd.testing.assert_frame_equal(layer_table(wide), layer_table(alone), rtol=numerics.EXACT)


def test_a_dense_update_has_the_same_row(rng):
    W0 = rng.normal(size=(14, 11))
    spectrum = decompose(W0)
    L, R = rng.normal(size=(14, 3)), rng.normal(size=(3, 11))
    deltas = LowRankDelta(L, R), DenseDelta(L @ R)
    rows = [row_of(measure(spectrum, delta, K, optional=[MEASURES["intruders"]])) for delta in deltas]
    _, of_share = reference.intruder_errors(W0, L @ R)
    for column in rows[0]:
        if isinstance(rows[0][column], float):
            # The intruders' share takes the update into bases of float32; a band is good to the root of the rounding.
            error = {"abs": of_share} if column == "intruder_share" else {"rel": 1e-6, "abs": 1e-9}
            assert rows[1][column] == pytest.approx(rows[0][column], nan_ok=True, **error), column


def test_an_update_of_zeros_has_no_shares_and_no_cost(rng):
    row = row_of(measure(decompose(rng.normal(size=(6, 5))), LowRankDelta(np.zeros((6, 2)), np.ones((2, 5))), 2))
    assert (row["norm"], row["relative_norm"], row["cost"], row["tightness"]) == (0, 0, 0, 0)
    assert all(np.isnan(row[column]) for column in ("pp", "rr", "enrichment", "stable_rank", "effective_rank"))
    assert row["pp_null_low"] == row["pp_null"] == row["pp_null_high"]


@pytest.mark.filterwarnings("error")
def test_a_weight_of_zeros_gives_no_ratio(rng):
    row = row_of(measure(decompose(np.zeros((6, 5))), LowRankDelta(np.ones((6, 1)), np.ones((1, 5))), 2))
    assert all(np.isnan(row[column]) for column in ("relative_norm", "relative_spectral_norm", "cost", "tightness"))


def test_an_update_of_another_shape_is_a_programming_error(rng):
    with pytest.raises(ValueError, match=r"update of shape \(5, 6\) on a weight of shape \(6, 5\)"):
        measure(decompose(rng.normal(size=(6, 5))), LowRankDelta(np.zeros((5, 1)), np.zeros((1, 6))), 2)


def test_rows_keep_the_order_of_the_adapters_also_where_the_first_changes_little(
    spectra, lora_folder, llama_base, make_adapter, tmp_path
):
    make_adapter(llama_base, tmp_path / "few", LoraConfig(r=2, target_modules=["down_proj"]))
    measured = measure_layers(spectra, placed(spectra, read_adapter(tmp_path / "few"), read_adapter(lora_folder)), K)
    assert [m.adapter for m in measured] == ["few"] * 2 + ["plain-lora"] * 14
    assert [m.module for m in measured[2:]] == spectra.base.linear_maps


def test_conv1d_adapters_are_measured_on_out_x_in_weights(gpt2_base, make_adapter, tmp_path):
    config = LoraConfig(r=3, target_modules=["c_attn"], fan_in_fan_out=True)
    model = make_adapter(gpt2_base, tmp_path / "adapter", config)
    spectra = BaseSpectra(open_base(gpt2_base), SpectrumCache(tmp_path / "cache"))
    row = layer_table(measure_layers(spectra, placed(spectra, read_adapter(tmp_path / "adapter")), K)).iloc[0]
    layer = model.get_submodule("base_model.model.transformer.h.0.attn.c_attn")
    W0 = layer.get_base_layer().weight.detach().double().numpy().T
    dW = layer.double().get_delta_weight("default").detach().numpy().T
    U, s, V = reference.bases(W0, K)
    assert (row["rows"], row["cols"]) == (72, 24)
    error = reference.basis_errors(W0, dW, U, s, V)
    assert row["pp"] == pytest.approx(reference.energy(U.T @ dW @ V) / reference.energy(dW), rel=error)


@pytest.fixture
def dora(llama_base, make_adapter, tmp_path):
    folder = tmp_path / "dora"
    make_adapter(llama_base, folder, LoraConfig(r=2, target_modules=["q_proj", "up_proj"], use_dora=True))
    return read_adapter(folder)


def test_an_update_that_depends_on_the_base_is_measured_on_it(spectra, dora):
    measured = measure_layers(spectra, placed(spectra, dora), K, optional=[MEASURES["intruders"]])
    assert len(measured) == 4
    for found in measured:
        W0 = spectra.base.read(spectra.base.weights[found.module]).astype(np.float64)
        dW = dora.delta(found.module, W0).dense()
        U, s, V = reference.bases(W0, K)
        count, share = reference.intruders(W0, dW)
        error, (_, of_share) = reference.basis_errors(W0, dW, U, s, V), reference.intruder_errors(W0, dW)
        row = row_of(found)
        assert row["method"] == "DoRA"
        assert row["norm"] == pytest.approx(np.linalg.norm(dW))
        assert row["pp"] == pytest.approx(reference.energy(U.T @ dW @ V) / reference.energy(dW), rel=error)
        assert row["rank"] == min(W0.shape)
        assert (row["intruders"], row["intruder_share"]) == (count, pytest.approx(share, abs=of_share))


def test_the_base_is_read_for_those_updates_only_that_need_it(spectra, dora, lora_folder, monkeypatch):
    dense, plain = placed(spectra, dora, read_adapter(lora_folder))
    assert dense.delta(dora.modules[0]).rank == 32
    monkeypatch.setattr(spectra.base, "read", lambda *_: pytest.fail("read the weight"))
    assert plain.delta(plain.update.modules[0]).rank == 4


def test_a_tied_head_is_measured_on_the_embedding(spectra, llama_base, make_adapter, tmp_path):
    make_adapter(llama_base, tmp_path / "head", LoraConfig(r=2, target_modules=["lm_head"]))
    (measured,) = measure_layers(spectra, placed(spectra, read_adapter(tmp_path / "head")), K)
    assert (measured.module, measured.shape) == ("model.embed_tokens", (40, 32))


def test_a_layer_with_fewer_directions_than_k_is_measured_at_all_it_has(spectra, lora_folder):
    placement = placed(spectra, read_adapter(lora_folder))
    wide = layer_table(measure_layers(spectra, placement, 20)).set_index("module")
    small = wide["rows"].eq(16)
    assert wide["principal_rank"].where(small, 20).tolist() == [16 if s else 20 for s in small]
    for k, rows in ((16, small), (20, ~small)):
        alone = layer_table(measure_layers(spectra, placement, k)).set_index("module")
        pd.testing.assert_frame_equal(wide[rows], alone[rows], rtol=numerics.EXACT)
    # All left directions of these are principal, so the null is that of the right side alone.
    np.testing.assert_allclose(wide.loc[small, "left_share"], 1, atol=numerics.kept_error(16))
    np.testing.assert_allclose(wide.loc[small, "pp_null"], 16 / 32)


def test_weights_that_adapters_change_are_each_named_once(spectra, lora_folder):
    weights = changed_weights(placed(spectra, *read_updates([lora_folder, lora_folder])))
    assert [weight.module for weight in weights] == spectra.base.linear_maps


def test_an_adapter_of_another_base_is_told_by_its_names(gpt2_base, lora_folder):
    with pytest.raises(HiploraError, match=r"plain-lora belongs to another base \(it names .*tiny-llama\): none"):
        place(open_base(gpt2_base), read_adapter(lora_folder))


def test_an_adapter_of_another_base_is_told_by_its_shapes(lora_folder, write_base, rng):
    base = open_base(write_base("wide", {"model.layers.0.self_attn.q_proj": rng.normal(size=(64, 64))}))
    with pytest.raises(
        HiploraError, match=r"belongs to another base.*q_proj does not fit, it is 32 x 32 in the adapter and 64 x 64"
    ):
        place(base, read_adapter(lora_folder))


def notes(spectra, adapter, k=K):
    placement = place(spectra.base, adapter)
    return caveats_on(spectra, placement, layer_table(measure_layers(spectra, [placement], k)), k)


def test_an_adapter_that_fits_has_nothing_to_note(spectra, lora_folder):
    assert notes(spectra, read_adapter(lora_folder)) == []


def test_an_adapter_that_names_another_base_is_noted_though_its_shapes_fit(spectra, write_adapter, rng):
    tensors = {
        "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight": rng.normal(size=(2, 32)),
        "base_model.model.model.layers.0.self_attn.q_proj.lora_B.weight": rng.normal(size=(32, 2)),
    }
    other = read_adapter(write_adapter("other", tensors, base_model_name_or_path="someone/tiny-gpt"))
    found = notes(spectra, other)
    assert found[0] == "It names someone/tiny-gpt as its base, this is tiny-llama: " + NOT_ENOUGH
    assert "larger than the weight itself" in found[1]
    same = read_adapter(write_adapter("same", tensors, base_model_name_or_path="someone/Tiny-Llama/"))
    assert not any("as its base" in note for note in notes(spectra, same))


def test_an_update_that_depends_on_the_base_is_noted_like_any_other(llama_base, dora, tmp_path, changed_copy):
    copy = changed_copy(llama_base, "renamed", lambda tensors: tensors, "model.safetensors")
    spectra = BaseSpectra(open_base(copy), SpectrumCache(tmp_path / "cache"))
    found = notes(spectra, dora)
    assert found[0] == f"It names {llama_base} as its base, this is renamed: " + NOT_ENOUGH
    # Its magnitudes were drawn at random.
    (note,) = found[1:]
    assert note.startswith("Its update is larger than the weight itself in places (")


def test_fused_weights_are_said_to_be_fused(gpt2_base, make_adapter, tmp_path):
    from peft import LoraConfig

    make_adapter(gpt2_base, tmp_path / "fused", LoraConfig(r=2, target_modules=["c_attn"], fan_in_fan_out=True))
    spectra = BaseSpectra(open_base(gpt2_base), SpectrumCache(tmp_path / "cache"))
    found = notes(spectra, read_adapter(tmp_path / "fused"))
    assert "attn.c_attn hold q, k and v in one matrix, which is measured as a whole." in found


def test_modules_left_out_are_noted_by_reason(spectra, write_adapter, rng):
    tensors = {}
    for module, (m, n) in {
        "model.layers.0.self_attn.q_proj": (32, 32),
        "model.layers.0.self_attn.v_proj": (32, 32),
        "model.layers.1.self_attn.v_proj": (32, 32),
        "lm_head": (44, 32),
    }.items():
        tensors[f"base_model.model.{module}.lora_A.weight"] = rng.normal(size=(2, n))
        tensors[f"base_model.model.{module}.lora_B.weight"] = rng.normal(size=(m, 2)) / 100
    assert notes(spectra, read_adapter(write_adapter("part", tensors, base_model_name_or_path="tiny-llama"))) == [
        "lm_head is left out: it is 44 x 32 in the adapter and 40 x 32 in the base.",
        "2 of its 4 modules are left out, such as model.layers.0.self_attn.v_proj: it is 32 x 32 in the adapter and "
        "16 x 32 in the base.",
    ]


def test_a_k_beyond_some_modules_is_noted_once(spectra, lora_folder):
    assert notes(spectra, read_adapter(lora_folder), 17) == [
        "4 of its modules, such as model.layers.0.self_attn.k_proj (16 x 32), have fewer than k = 17 directions: there "
        "all of them count as principal."
    ]


def test_modules_that_are_left_out_or_do_nothing_are_counted(spectra, write_adapter, rng):
    modules = {"model.layers.0.self_attn.q_proj": 0.0, "model.layers.9.self_attn.q_proj": 1.0}
    tensors = {}
    for module, scale in modules.items():
        tensors[f"base_model.model.{module}.lora_A.weight"] = rng.normal(size=(2, 32))
        tensors[f"base_model.model.{module}.lora_B.weight"] = scale * rng.normal(size=(32, 2))
    found = notes(spectra, read_adapter(write_adapter("part", tensors, base_model_name_or_path="")))
    assert found == [
        "model.layers.9.self_attn.q_proj is left out: tiny-llama does not have it.",
        "It names no base: that it is of tiny-llama is known by names and shapes alone.",
        "1 of its modules do nothing: their update is zero.",
    ]


def test_kinds_of_two_stacks_do_not_fall_together(rng):
    spectrum, delta = decompose(rng.normal(size=(6, 5))), LowRankDelta(np.ones((6, 1)), np.ones((1, 5)))
    names = ["text_model.layers.0.q_proj", "vision_model.layers.0.q_proj"]
    table = layer_table([measure(spectrum, delta, 2, adapter="a", module=name) for name in names])
    assert list(table["kind"]) == ["text_model.layers.q_proj", "vision_model.layers.q_proj"]
