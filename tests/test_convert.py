"""A pickle becomes safetensors in a process of its own, and never runs; names become those of diffusers."""

import json
import os

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from hiplora.adapters import place, read_adapter
from hiplora.convert import convert, rename
from hiplora.errors import HiploraError
from hiplora.sources import open_base


class Bomb:
    """Runs a command when it is unpickled."""

    def __init__(self, command):
        self.command = command

    def __reduce__(self):
        return os.system, (self.command,)


@pytest.mark.parametrize("wrapped", [None, "state_dict", "model"])
def test_tensors_keep_their_names_and_values(tmp_path, wrapped):
    tensors = {"a.lora_A.weight": torch.randn(2, 3), "a.lora_B.weight": torch.randn(3, 2).bfloat16()}
    torch.save({wrapped: tensors, "step": 3} if wrapped else tensors, tmp_path / "adapter_model.bin")
    out = convert(tmp_path / "adapter_model.bin")
    assert out == tmp_path / "adapter_model.safetensors"
    found = load_file(out)
    assert set(found) == set(tensors)
    assert all(torch.equal(found[key], value) for key, value in tensors.items())


def test_tensors_that_share_memory_are_written_each(tmp_path):
    whole = torch.randn(4, 4)
    torch.save({"a": whole, "b": whole, "c": whole[:2]}, tmp_path / "x.bin")
    found = load_file(convert(tmp_path / "x.bin", tmp_path / "y.safetensors"))
    assert torch.equal(found["c"], whole[:2])


def test_code_in_a_pickle_does_not_run(tmp_path):
    torch.save({"a": Bomb(f"touch {tmp_path / 'ran'}")}, tmp_path / "adapter_model.bin")
    with pytest.raises(HiploraError, match=r"adapter_model\.bin cannot be converted \(it holds more than tensors"):
        convert(tmp_path / "adapter_model.bin")
    assert [path.name for path in tmp_path.iterdir()] == ["adapter_model.bin"]


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04"])
def test_what_is_damaged_is_one_sentence(tmp_path, content):
    (tmp_path / "x.bin").write_bytes(content)
    with pytest.raises(HiploraError, match=r"x\.bin cannot be converted \(it holds more than tensors, or is damaged"):
        convert(tmp_path / "x.bin")


def test_a_pickle_without_tensors_is_named(tmp_path):
    torch.save([torch.zeros(1)], tmp_path / "x.bin")
    with pytest.raises(HiploraError, match="it holds no tensors by name"):
        convert(tmp_path / "x.bin")


def test_nothing_is_overwritten(tmp_path):
    torch.save({"a": torch.zeros(1)}, tmp_path / "x.bin")
    (tmp_path / "x.safetensors").write_text("precious")
    with pytest.raises(HiploraError, match=r"x\.safetensors exists already"):
        convert(tmp_path / "x.bin")
    assert (tmp_path / "x.safetensors").read_text() == "precious"


def test_a_folder_is_not_a_file(tmp_path):
    with pytest.raises(HiploraError, match="is not a file: pass the pickle itself"):
        convert(tmp_path)


def test_a_module_in_the_strangers_folder_is_not_imported(tmp_path, monkeypatch):
    torch.save({"a": torch.zeros(1)}, tmp_path / "adapter_model.bin")
    (tmp_path / "torch.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    monkeypatch.chdir(tmp_path)
    convert("adapter_model.bin")
    assert not (tmp_path / "ran").exists()


def test_a_number_becomes_a_tensor(tmp_path):
    torch.save({"a.lora_down.weight": torch.zeros(2, 2), "a.alpha": 1.0}, tmp_path / "x.bin")
    assert load_file(convert(tmp_path / "x.bin"))["a.alpha"].item() == 1.0


SDXL = {
    "input_blocks_4_1_transformer_blocks_0_attn1_to_q": (
        "down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_q",
        64,
    ),
    "middle_block_1_transformer_blocks_0_attn2_to_k": ("mid_block.attentions.0.transformer_blocks.0.attn2.to_k", 16),
    "output_blocks_2_1_transformer_blocks_0_attn1_to_out_0": (
        "up_blocks.0.attentions.2.transformer_blocks.0.attn1.to_out.0",
        64,
    ),
}
"""kohya's name of a map of SDXL -> that of diffusers, and its inputs. All have 64 outputs."""


def _lora(name, m, n, factors=("lora_down", "lora_up"), alpha=1.0):
    down, up = (f"{name}.{factor}.weight" for factor in factors)
    return {down: torch.randn(2, n), up: torch.randn(m, 2), f"{name}.alpha": torch.tensor(alpha)}


def test_names_of_sdxls_first_release_become_those_that_diffusers_puts_the_lora_on(tmp_path):
    diffusers = pytest.importorskip("diffusers")
    torch.manual_seed(0)
    unet = diffusers.UNet2DConditionModel(
        block_out_channels=(32, 64), layers_per_block=2, sample_size=8, norm_num_groups=8, cross_attention_dim=16,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"), attention_head_dim=(2, 4),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"), use_linear_projection=True,
    )  # fmt: skip
    unet.save_pretrained(tmp_path / "unet")
    tensors = {}
    for name, (_, n) in SDXL.items():
        tensors |= _lora(f"lora_unet_{name}", 64, n)
    encoder = _lora("lora_te1_text_model_encoder_layers_0_self_attn_q_proj", 8, 8)
    save_file(tensors | encoder, tmp_path / "style.safetensors")
    base = open_base(tmp_path / "unet")
    with pytest.raises(HiploraError, match=r"style\.safetensors --base .*unet` gives it diffusers'"):
        place(base, read_adapter(tmp_path / "style.safetensors"))

    out = rename(tmp_path / "style.safetensors", base)
    assert out == tmp_path / "style-diffusers.safetensors"
    placement = place(base, read_adapter(out))
    assert list(placement.left_out) == ["lora_te1_text_model_encoder_layers_0_self_attn_q_proj"]
    assert placement.update.caveats == []

    before = {key: value.double().clone() for key, value in unet.state_dict().items()}
    loader = diffusers.loaders.StableDiffusionXLLoraLoaderMixin
    theirs, alphas = loader.lora_state_dict(tensors, unet_config=unet.config)
    unet.load_lora_adapter(theirs, network_alphas=alphas, prefix="unet")
    unet.double().fuse_lora()
    after = {key.replace(".base_layer", ""): value for key, value in unet.state_dict().items()}
    found = {weight.module: delta.dense() for weight, delta in placement}
    assert sorted(found) == sorted(module for module, _ in SDXL.values())
    for module, delta in found.items():
        expected = (after[f"{module}.weight"] - before[f"{module}.weight"]).numpy()
        # diffusers adds its update, of float32 factors, in float64.
        np.testing.assert_allclose(delta, expected, rtol=0, atol=1e-12 * np.abs(expected).max())


@pytest.mark.parametrize(
    ("prefix", "factors"), [("lora_unet_", ("lora_down", "lora_up")), ("diffusion_model.", ("lora_A", "lora_B"))]
)
def test_joined_maps_of_flux_are_taken_apart(tmp_path, prefix, factors):
    pytest.importorskip("diffusers")
    torch.manual_seed(0)
    (tmp_path / "transformer").mkdir()
    (tmp_path / "transformer" / "config.json").write_text(json.dumps({"_class_name": "FluxTransformer2DModel"}))
    modules = [f"transformer_blocks.0.attn.to_{part}" for part in "qkv"]
    zeros = {f"{name}.weight": torch.zeros(3072, 3072, dtype=torch.bfloat16) for name in modules}
    save_file(zeros, tmp_path / "transformer" / "diffusion_pytorch_model.safetensors")
    name = "double_blocks.0.img_attn.qkv"
    name = prefix + (name if prefix.endswith(".") else name.replace(".", "_"))
    tensors = _lora(name, 3 * 3072, 3072, factors)
    save_file(tensors, tmp_path / "style.safetensors")
    adapter = read_adapter(rename(tmp_path / "style.safetensors", open_base(tmp_path / "transformer")))
    A, B, _ = (value.double().numpy() for value in tensors.values())
    for i, module in enumerate(modules):
        expected = 1 / 2 * B[3072 * i : 3072 * (i + 1)][:5] @ A
        np.testing.assert_allclose(adapter.delta(f"transformer.{module}").dense()[:5], expected, atol=1e-5)


def test_what_is_not_translated_is_one_sentence(tmp_path):
    pytest.importorskip("diffusers")
    for kind in ("FluxTransformer2DModel", "UnheardOf"):
        (tmp_path / kind).mkdir()
        (tmp_path / kind / "config.json").write_text(json.dumps({"_class_name": kind}))
        save_file({"a.weight": torch.zeros(2, 2)}, tmp_path / kind / "diffusion_pytorch_model.safetensors")
    save_file(_lora("lora_unet_double_blocks_0_img_attn_odd", 4, 4), tmp_path / "odd.safetensors")
    save_file(_lora("lora_unet_x", 4, 4) | {"lora_unet_x.dora_scale": torch.ones(4)}, tmp_path / "dora.safetensors")
    flux = open_base(tmp_path / "FluxTransformer2DModel")
    with pytest.raises(HiploraError, match=r"diffusers cannot translate the names of .*odd\.safetensors to those of"):
        rename(tmp_path / "odd.safetensors", flux)
    with pytest.raises(HiploraError, match=r"dora\.safetensors holds magnitudes of a DoRA"):
        rename(tmp_path / "dora.safetensors", flux)
    with pytest.raises(HiploraError, match="does not have a loader of LoRAs for a UnheardOf"):
        rename(tmp_path / "odd.safetensors", open_base(tmp_path / "UnheardOf"))
    with pytest.raises(HiploraError, match="is not a model of diffusers"):
        rename(tmp_path / "odd.safetensors", open_base("demo"))
