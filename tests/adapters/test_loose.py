"""Files of other tools: PEFT's tensors under their names give PEFT's own numbers."""

import json

import numpy as np
import pytest
import torch
import transformers as hf
from safetensors.torch import load_file, save_file

from hiplora.adapters import place, read_adapter, save_lora
from hiplora.errors import HiploraError
from hiplora.sources import open_base
from tests.conformance.merged import disagreements, train
from tests.conformance.tuners import config_of

MODULES = ["q_proj", "down_proj"]


@pytest.fixture(scope="module")
def llama(tmp_path_factory):
    """Return a model and its folder."""
    torch.manual_seed(0)
    config = hf.LlamaConfig(
        vocab_size=64, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=32,
    )  # fmt: skip
    model, folder = hf.LlamaForCausalLM(config), tmp_path_factory.mktemp("llama")
    model.save_pretrained(folder)
    return model, folder


@pytest.fixture
def trained(llama, tmp_path):
    """Return a LoRA of alpha 6 and rank 4 by PEFT, and its tensors without PEFT's prefix."""
    found = train(llama[0], config_of("LoRA", MODULES), tmp_path / "peft")
    return found, _plain(found.folder)


def _plain(folder):
    tensors = load_file(folder / "adapter_model.safetensors")
    return {key.removeprefix("base_model.model."): value for key, value in tensors.items()}


def _write(tensors, path, metadata=None):
    path.parent.mkdir(exist_ok=True)
    save_file({key: value.contiguous() for key, value in tensors.items()}, path, metadata)
    return path


def _agree(base, path, deltas):
    placement = place(open_base(base), read_adapter(path))
    found = disagreements(placement, deltas)
    assert len(found) == 4
    assert max(found.values()) < 1e-11
    return placement


def _kohya(tensors, alpha):
    renamed = {}
    for key, value in tensors.items():
        module, _, factor = key.removesuffix(".weight").rpartition(".")
        name = f"lora_te_{module.replace('.', '_')}"
        renamed[f"{name}.lora_{'down' if factor == 'lora_A' else 'up'}.weight"] = value
        renamed[f"{name}.alpha"] = torch.tensor(alpha)
    return renamed


@pytest.mark.parametrize("place_", ["file", "folder", "folder with PEFT's config"])
def test_kohyas_names_and_alphas(llama, trained, tmp_path, place_):
    found, tensors = trained
    path = _write(_kohya(tensors, 6.0), tmp_path / "kohya" / "my-style.safetensors")
    if place_ == "folder with PEFT's config":
        config = json.loads((found.folder / "adapter_config.json").read_text()) | {"lora_alpha": 1}
        (path.parent / "adapter_config.json").write_text(json.dumps(config))
    placement = _agree(llama[1], path if place_ == "file" else path.parent, found.deltas)
    assert placement.update.name == ("my-style" if place_ == "file" else "kohya")
    assert placement.update.method == "LoRA"


@pytest.mark.parametrize(("tuner", "prefix"), [("LoHa", "hada_"), ("LoKr", "lokr_")])
def test_lycoris_names(llama, tmp_path, tuner, prefix):
    found = train(llama[0], config_of(tuner, MODULES), tmp_path / "peft")
    tensors = {}
    for key, value in _plain(found.folder).items():
        module, _, name = key.rpartition(".")
        tensors[f"lycoris_{module.replace('.', '_')}.{name}"] = value
        tensors[f"lycoris_{module.replace('.', '_')}.alpha"] = torch.tensor(6.0)
    placement = _agree(llama[1], _write(tensors, tmp_path / "own" / "x.safetensors"), found.deltas)
    assert placement.update.method == tuner


@pytest.mark.parametrize(("tuner", "core"), [("LoHa", "hada_t1"), ("LoKr", "lokr_t2")])
def test_lycoris_cores_of_a_convolution(tmp_path, tuner, core):
    model = torch.nn.Sequential(torch.nn.Conv2d(12, 32, 3, bias=False))
    found = train(model, config_of(tuner, ["0"], use_effective_conv2d=True), tmp_path / "peft")
    tensors = {f"lycoris_{key}": value for key, value in _plain(found.folder).items()}
    assert f"lycoris_0.{core}" in tensors
    tensors["lycoris_0.alpha"] = torch.tensor(6.0)
    adapter = read_adapter(_write(tensors, tmp_path / "x.safetensors"))
    assert adapter.shape("lycoris_0") == (32, 12 * 9)
    theirs = found.deltas["0.weight"].reshape(32, -1)
    np.testing.assert_allclose(adapter.delta("lycoris_0").dense(), theirs, atol=1e-12 * np.abs(theirs).max())


def test_a_full_difference(llama, tmp_path):
    difference = torch.randn(32, 32)
    path = _write({"lora_te_model_layers_0_self_attn_q_proj.diff": difference}, tmp_path / "x.safetensors")
    ((weight, delta),) = place(open_base(llama[1]), read_adapter(path))
    assert weight.module == "model.layers.0.self_attn.q_proj"
    np.testing.assert_array_equal(delta.dense(), difference.double().numpy())


def test_a_convolution_with_a_core_is_what_three_convolutions_do(tmp_path):
    torch.manual_seed(0)
    down, mid, up = torch.randn(4, 6, 1, 1), torch.randn(4, 4, 3, 3), torch.randn(8, 4, 1, 1)
    tensors = {"c.lora_down.weight": down, "c.lora_mid.weight": mid, "c.lora_up.weight": up, "c.alpha": torch.tensor(2)}
    adapter = read_adapter(_write(tensors, tmp_path / "x.safetensors"))
    assert adapter.shape("c") == (8, 6 * 9)
    kernel = torch.from_numpy(adapter.delta("c").dense()).reshape(8, 6, 3, 3)
    conv, image = torch.nn.functional.conv2d, torch.randn(1, 6, 7, 7, dtype=torch.float64)
    expected = 2 / 4 * conv(conv(conv(image, down.double()), mid.double(), padding=1), up.double())
    torch.testing.assert_close(conv(image, kernel, padding=1), expected)


@pytest.mark.parametrize("alpha", ["said", "not said"])
def test_diffusers_names_and_the_settings_in_its_file(llama, trained, tmp_path, alpha):
    found, tensors = trained
    settings = {"unet.r": 4, "unet.lora_alpha": 6, "text_encoder.lora_alpha": 99}
    path = tmp_path / "diffusers" / "pytorch_lora_weights.safetensors"
    _write(
        {f"unet.{key}": value for key, value in tensors.items()},
        path,
        {"format": "pt", "lora_adapter_metadata": json.dumps(settings)} if alpha == "said" else None,
    )
    factor = 1.0 if alpha == "said" else 4 / 6
    placement = _agree(llama[1], path.parent, {key: factor * value for key, value in found.deltas.items()})
    silent = "Nothing says the alpha of 4 modules (unet.model.layers.0.mlp.down_proj): alpha = r is taken."
    assert placement.update.caveats == ([] if alpha == "said" else [silent])


def test_the_older_names_of_diffusers(tmp_path):
    A, B = torch.randn(2, 6), torch.randn(8, 2)
    names = {
        "unet.a.attn1.processor.to_q_lora": "unet.a.attn1.to_q",
        "unet.a.attn1.processor.to_out_lora": "unet.a.attn1.to_out.0",
        "text_encoder.b.q_proj.lora_linear_layer": "text_encoder.b.q_proj",
        "unet.c.proj.lora": "unet.c.proj",
    }
    tensors = {f"{name}.down.weight": A for name in names} | {f"{name}.up.weight": B for name in names}
    adapter = read_adapter(_write({k: v.clone() for k, v in tensors.items()}, tmp_path / "x.safetensors"))
    assert sorted(adapter.modules) == sorted(names.values())
    np.testing.assert_allclose(adapter.delta("unet.a.attn1.to_q").dense(), (B.double() @ A.double()).numpy())


def test_mlx_factors_lie_the_other_way_round(llama, trained, tmp_path):
    found, tensors = trained
    renamed = {
        key.removesuffix(".weight").replace("lora_A", "lora_a").replace("lora_B", "lora_b"): value.T
        for key, value in tensors.items()
    }
    path = _write(renamed, tmp_path / "mlx" / "adapters.safetensors")
    config = {"fine_tune_type": "lora", "lora_parameters": {"rank": 4, "scale": 1.5, "dropout": 0.0}}
    (path.parent / "adapter_config.json").write_text(json.dumps(config))
    _agree(llama[1], path.parent, found.deltas)
    del config["lora_parameters"]["scale"]
    (path.parent / "adapter_config.json").write_text(json.dumps(config))
    adapter = read_adapter(path.parent)
    with pytest.raises(HiploraError, match=r"adapter_config\.json: lora_parameters must say the scale"):
        adapter.delta(adapter.modules[0])


def test_a_model_of_diffusers_is_a_base(tmp_path):
    torch.manual_seed(0)
    weights = {"down.0.attn.to_q.weight": torch.randn(8, 8), "down.0.conv.weight": torch.randn(8, 4, 3, 3)}
    (tmp_path / "unet").mkdir()
    (tmp_path / "unet" / "config.json").write_text(json.dumps({"_class_name": "UNet2DConditionModel"}))
    save_file(weights, tmp_path / "unet" / "diffusion_pytorch_model.safetensors")
    tensors = {
        "lora_unet_down_0_attn_to_q.lora_down.weight": torch.randn(2, 8),
        "lora_unet_down_0_attn_to_q.lora_up.weight": torch.randn(8, 2),
        "lora_unet_down_0_conv.lora_down.weight": torch.randn(2, 4, 3, 3),
        "lora_unet_down_0_conv.lora_up.weight": torch.randn(8, 2, 1, 1),
        "lora_te_x_q.lora_down.weight": torch.randn(2, 8),
        "lora_te_x_q.lora_up.weight": torch.randn(8, 2),
    }
    base = open_base(tmp_path / "unet")
    placement = place(base, read_adapter(_write(tensors, tmp_path / "x.safetensors")))
    assert [(w.module, w.shape) for w in placement.weights] == [
        ("down.0.attn.to_q", (8, 8)), ("down.0.conv", (8, 36)),
    ]  # fmt: skip
    np.testing.assert_array_equal(base.read(placement.weights[1]), weights["down.0.conv.weight"].reshape(8, 36).numpy())
    assert base.linear_maps == ["down.0.attn.to_q"]
    assert base.notes == []
    assert placement.left_out == {"lora_te_x_q": "unet does not have it"}


def test_magnitudes_of_other_tools_are_refused(tmp_path):
    tensors = {"a.lora_down.weight": torch.randn(2, 4), "a.lora_up.weight": torch.randn(4, 2)}
    path = _write(tensors | {"a.dora_scale": torch.ones(4, 1)}, tmp_path / "x.safetensors")
    with pytest.raises(HiploraError, match=r"x\.safetensors holds magnitudes of a DoRA"):
        read_adapter(path)


@pytest.mark.parametrize(
    ("tensors", "reason"),
    [
        ({"a.weight": torch.zeros(2, 2)}, r"holds 1 tensors \(a.weight\), and none with the name of an adapter's"),
        ({"base_model.model.a.lora_A.weight": torch.zeros(2, 2)}, "has no adapter_config.json beside it: r, alpha"),
        ({"a.lora_down.weight": torch.zeros(2, 2)}, "a has one factor of two"),
    ],
)
def test_a_file_says_what_is_missing(tmp_path, tensors, reason):
    with pytest.raises(HiploraError, match=rf"x\.safetensors.*{reason}"):
        read_adapter(_write(tensors, tmp_path / "x.safetensors"))


def test_factors_that_do_not_fit_each_other_are_one_sentence(tmp_path):
    tensors = {"a.lora_down.weight": torch.zeros(2, 4), "a.lora_up.weight": torch.zeros(4, 3)}
    adapter = read_adapter(_write(tensors, tmp_path / "x.safetensors"))
    with pytest.raises(HiploraError, match="the tensors of a do not multiply"):
        adapter.delta("a")


@pytest.mark.parametrize("alpha", [{}, {"alpha": 16}])
def test_the_scale_of_mlx_is_taken_as_it_stands_from_the_folder_and_from_any_file_in_it(tmp_path, alpha):
    tensors = {"a.q_proj.lora_a": torch.randn(6, 2), "a.q_proj.lora_b": torch.randn(2, 8)}
    for name in ("adapters", "0000100_adapters"):
        _write(tensors, tmp_path / "mlx" / f"{name}.safetensors")
    config = {"fine_tune_type": "lora", "num_layers": 4, "lora_parameters": {"rank": 2, "scale": 10.0} | alpha}
    (tmp_path / "mlx" / "adapter_config.json").write_text(json.dumps(config))
    for path in (tmp_path / "mlx", *(tmp_path / "mlx").glob("*.safetensors")):
        adapter = read_adapter(path)
        assert adapter.scale("a.q_proj") == 10.0
        assert adapter.caveats == []


@pytest.mark.parametrize("fields", [{"fine_tune_type": "dora"}, {"fine_tune_type": "lora"}, {"use_dora": True}])
def test_a_dora_of_mlx_is_refused(tmp_path, fields):
    tensors = {"a.lora_a": torch.randn(6, 2), "a.lora_b": torch.randn(2, 8), "a.m": torch.randn(8)}
    path = _write(tensors, tmp_path / "mlx" / "adapters.safetensors")
    (path.parent / "adapter_config.json").write_text(json.dumps(fields | {"lora_parameters": {"scale": 2}}))
    with pytest.raises(HiploraError, match="holds magnitudes of a DoRA"):
        read_adapter(path.parent)


def test_patterns_of_a_component_match_inside_it(tmp_path):
    name = "transformer.blocks.0.attn.to_q"
    tensors = {f"{name}.lora_A.weight": torch.randn(8, 6), f"{name}.lora_B.weight": torch.randn(6, 8)}
    settings = {
        "transformer.r": 8,
        "transformer.lora_alpha": 8,
        "transformer.alpha_pattern": {r"^blocks.0.attn.to_q": 32},
    }
    metadata = {"format": "pt", "lora_adapter_metadata": json.dumps(settings)}
    assert read_adapter(_write(tensors, tmp_path / "x.safetensors", metadata)).scale(name) == 4


def test_differences_of_norms_are_named_and_the_rest_is_read(tmp_path):
    tensors = {"a.lora_down.weight": torch.randn(2, 4), "a.lora_up.weight": torch.randn(4, 2)}
    tensors |= {"norm.diff": torch.randn(4), "a.diff_b": torch.randn(4)}
    adapter = read_adapter(_write(tensors, tmp_path / "x.safetensors"))
    assert adapter.modules == ["a"]
    assert {each.key for each in adapter.contents() if not each.read} == {"norm.diff", "a.diff_b"}


def test_an_edit_of_one_file_may_lie_beside_it(llama, tmp_path):
    name = "lora_te_model_layers_0_self_attn_q_proj"
    tensors = {f"{name}.lora_down.weight": torch.randn(2, 32), f"{name}.lora_up.weight": torch.randn(32, 2)}
    path = _write(tensors, tmp_path / "x.safetensors")
    placement = place(open_base(llama[1]), read_adapter(path))
    save_lora(placement, tmp_path / "edited")
    with pytest.raises(HiploraError, match="contains the adapter itself"):
        save_lora(placement, tmp_path)
    assert path.is_file()


def test_trained_rows_of_another_form_do_not_count(tmp_path):
    tensors = {"base_model.model.e.trainable_tokens_delta": torch.zeros(2, 2, 2)}
    path = _write(tensors, tmp_path / "adapter_model.safetensors")
    (tmp_path / "adapter_config.json").write_text(json.dumps({"peft_type": "TRAINABLE_TOKENS", "token_indices": [0]}))
    with pytest.raises(HiploraError, match="holds no trainable tokens weights"):
        read_adapter(path.parent)
