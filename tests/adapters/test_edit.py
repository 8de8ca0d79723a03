"""Edits by block, against dense projections, and the LoRA that is saved, against PEFT's merge."""

import shutil

import numpy as np
import peft
import pytest
from transformers import AutoModelForCausalLM

import hiplora
from hiplora.adapters import DenseDelta, Gains, LowRankDelta, edited, place, read_adapter, save_lora
from hiplora.errors import HiploraError
from tests import numerics


@pytest.fixture
def bases(rng):
    """Return `U_k^T` (3, 8) and `V_k^T` (3, 6)."""
    return tuple(np.linalg.qr(rng.normal(size=(size, 3)))[0].T for size in (8, 6))


@pytest.mark.parametrize("gains", [Gains(), Gains(pp=0), Gains(pr=0.5, rp=2), Gains(0, 0, 0, 1), Gains(-1, 0.3, 0, 0)])
@pytest.mark.parametrize("dense", [False, True])
def test_an_edit_is_the_sum_of_the_scaled_blocks(rng, bases, gains, dense):
    L, R = rng.normal(size=(8, 2)), rng.normal(size=(2, 6))
    delta = DenseDelta(L @ R) if dense else LowRankDelta(L, R)
    P, Q = (basis.T @ basis for basis in bases)
    D, PR, QR = L @ R, np.eye(8) - P, np.eye(6) - Q
    expected = gains.pp * P @ D @ Q + gains.pr * P @ D @ QR + gains.rp * PR @ D @ Q + gains.rr * PR @ D @ QR
    found = edited(delta, *bases, gains)
    assert isinstance(found, type(delta))
    assert dense or found.rank <= 4
    np.testing.assert_allclose(found.dense(), expected, rtol=0, atol=numerics.EXACT * np.abs(D).max())


@pytest.mark.parametrize("value", [np.nan, np.inf, "much", None])
def test_a_gain_is_a_number(value):
    with pytest.raises(HiploraError, match="pp must be a number"):
        Gains(pp=value)


def test_a_study_edits_by_block_and_measures_the_edit(llama_base, lora_folder):
    study = hiplora.open(llama_base, [lora_folder], k=4)
    edit = study.edit(study.names[0], pp=0)
    assert edit.name == f"{study.names[0]}, PP x 0"
    both = study.on([lora_folder, edit]).layers()
    before, after = (both[both["adapter"] == name].reset_index(drop=True) for name in dict.fromkeys(both["adapter"]))
    assert (after["pp"] < 1e-12).all()
    norm = before["norm"] * np.sqrt(1 - before["pp"])
    # The cache holds the singular vectors in float32, orthonormal to its rounding.
    np.testing.assert_allclose(after["norm"], norm, rtol=numerics.gamma(32, "float32"))


def test_a_budget_is_kept_by_scaling_the_principal_block(llama_base, lora_folder):
    study = hiplora.open(llama_base, [lora_folder], k=4)
    name = study.names[0]
    before = study.at(epsilon=0.01).layers()
    assert (before["tightness"] > 1).any()
    after = study.on([study.rebudget(name, 0.01)]).at(epsilon=0.01).layers()
    np.testing.assert_allclose(after["tightness"], np.minimum(before["tightness"], 1), rtol=1e-5)
    for block in ("pr", "rp", "rr"):
        np.testing.assert_allclose(
            after[block] * after["norm"] ** 2, before[block] * before["norm"] ** 2, rtol=1e-5, atol=1e-12
        )


@pytest.mark.parametrize("base", ["llama_base", "gpt2_base"])
def test_what_is_saved_is_what_peft_merges(request, base, make_adapter, tmp_path):
    folder = request.getfixturevalue(base)
    conv1d = base == "gpt2_base"
    targets = ["c_attn"] if conv1d else ["q_proj", "down_proj"]
    make_adapter(folder, tmp_path / "own", peft.LoraConfig(r=2, target_modules=targets, fan_in_fan_out=conv1d))
    study = hiplora.open(folder, [tmp_path / "own"], k=4)
    placement = place(study.base, study.edit("own", pp=0, rr=0.5))
    table = save_lora(placement, tmp_path / "edited")
    assert (table["error"] == 0).all()
    model = AutoModelForCausalLM.from_pretrained(folder)
    before = {name: value.detach().clone() for name, value in model.state_dict().items()}
    merged = peft.PeftModel.from_pretrained(model, tmp_path / "edited").merge_and_unload().state_dict()
    for weight, delta in placement:
        theirs = (merged[weight.key] - before[weight.key]).numpy()
        theirs = theirs.T if weight.transposed else theirs
        # Added to a float32 weight, and taken off again.
        error = 8 * numerics.unit_roundoff("float32") * (before[weight.key].abs().max().item() + np.abs(theirs).max())
        np.testing.assert_allclose(delta.dense(), theirs, rtol=0, atol=error)


def test_a_cut_keeps_the_largest_part_and_says_what_is_lost(llama_base, lora_folder, tmp_path):
    study = hiplora.open(llama_base, [lora_folder], k=4)
    placement = study.placements[0]
    table = save_lora(placement, tmp_path / "cut", r=2).set_index("module")
    cut = read_adapter(tmp_path / "cut")
    for weight, delta in placement:
        s = np.linalg.svd(delta.dense(), compute_uv=False)
        assert table.loc[weight.module, "rank"] == 2
        lost = np.sqrt(np.sum(s[2:] ** 2) / np.sum(s**2))
        assert table.loc[weight.module, "error"] == pytest.approx(lost)
        difference = (cut.delta(weight.module) - delta).energy ** 0.5 / delta.energy**0.5
        assert difference == pytest.approx(lost, rel=1e-4)
    with pytest.raises(HiploraError, match="rank must be 1 or more, got 0"):
        save_lora(placement, tmp_path / "none", r=0)


def test_a_folder_with_an_adapter_of_someones_own_is_not_replaced(llama_base, lora_folder, tmp_path):
    study = hiplora.open(llama_base, [lora_folder], k=4)
    save_lora(study.placements[0], tmp_path / "out")
    save_lora(study.placements[0], tmp_path / "out", r=1)
    assert read_adapter(tmp_path / "out").config["r"] == 1
    theirs = shutil.copytree(lora_folder, tmp_path / "theirs")
    before = (theirs / "adapter_model.safetensors").read_bytes()
    with pytest.raises(HiploraError, match="holds files that are not an earlier export"):
        save_lora(study.placements[0], theirs)
    assert (theirs / "adapter_model.safetensors").read_bytes() == before


def test_what_cannot_be_a_lora_is_named(llama_base, make_adapter, tmp_path):
    make_adapter(llama_base, tmp_path / "own", peft.LoraConfig(r=2, target_modules=["embed_tokens"]))
    study = hiplora.open(llama_base, [tmp_path / "own"], k=4)
    with pytest.raises(HiploraError, match=r"model\.embed_tokens is not a linear map of its own"):
        save_lora(study.placements[0], tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_the_adapter_itself_is_not_overwritten_and_a_readme_is_kept(llama_base, lora_folder, tmp_path):
    study = hiplora.open(llama_base, [lora_folder], k=4)
    save_lora(place(study.base, study.edit(study.names[0], pp=0.5)), tmp_path / "once")
    (tmp_path / "once" / "README.md").write_text("mine")
    save_lora(study.placements[0], tmp_path / "once")
    assert (tmp_path / "once" / "README.md").read_text() == "mine"
    again = hiplora.open(llama_base, [tmp_path / "once"], k=4)
    before = (tmp_path / "once" / "adapter_model.safetensors").read_bytes()
    with pytest.raises(HiploraError, match="once is the adapter itself"):
        save_lora(place(again.base, again.edit("once", pp=0)), tmp_path / "once")
    assert (tmp_path / "once" / "adapter_model.safetensors").read_bytes() == before


def test_what_is_not_a_part_of_the_edit_is_named(llama_base, make_adapter, tmp_path):
    config = peft.LoraConfig(r=2, target_modules=["q_proj"], modules_to_save=["embed_tokens"])
    make_adapter(llama_base, tmp_path / "own", config)
    study = hiplora.open(llama_base, [tmp_path / "own"], k=4)
    assert any("embed_tokens is not a part of the edit" in caveat for caveat in study.edit("own", pp=0).caveats)


def test_a_layer_used_several_times_is_not_written(llama_base, make_adapter, tmp_path):
    config = peft.LoraConfig(r=2, target_modules=["q_proj"], layer_replication=[[0, 2], [1, 2]])
    make_adapter(llama_base, tmp_path / "own", config)
    study = hiplora.open(llama_base, [tmp_path / "own"], k=4)
    with pytest.raises(HiploraError, match="changes a layer that is used several times"):
        save_lora(study.placements[0], tmp_path / "out")
