"""Updates of every form that LoRA takes, against PEFT's own merged weights minus the base, in float64."""

import json

import numpy as np
import peft
import pytest
import torch
import transformers as hf
from safetensors.torch import load_file, save_file

from hiplora.adapters import place, read_adapter
from hiplora.adapters.lora import DEFAULTS, KNOWN_FIELDS
from hiplora.errors import HiploraError
from hiplora.sources import open_base

TEXT = {
    "vocab_size": 64, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 32, "tie_word_embeddings": False,
}  # fmt: skip
MOE = {"num_experts": 3, "num_experts_per_tok": 2, "moe_intermediate_size": 40, "shared_expert_intermediate_size": 24}
EXPERTS = ["mlp.experts.gate_up_proj", "mlp.experts.down_proj"]
BASES = {
    "llama": lambda: hf.LlamaForCausalLM(hf.LlamaConfig(**TEXT)),
    "qwen2-moe": lambda: hf.Qwen2MoeForCausalLM(hf.Qwen2MoeConfig(**TEXT, **MOE)),
    "gpt-oss": lambda: hf.GptOssForCausalLM(
        hf.GptOssConfig(**TEXT, head_dim=8, num_local_experts=3, num_experts_per_tok=2)
    ),
    "vit": lambda: hf.ViTForImageClassification(
        hf.ViTConfig(hidden_size=16, intermediate_size=24, num_hidden_layers=1, num_attention_heads=2, image_size=16,
                     patch_size=8)
    ),
}  # fmt: skip


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """Return a function: the folder of a base, and of a random LoRA on it."""

    def save(name, **settings):
        folder = tmp_path_factory.mktemp("merged")
        torch.manual_seed(0)
        model = BASES[name]()
        model.save_pretrained(folder / "base")
        config = peft.LoraConfig(**{"r": 2, "lora_alpha": 6, "init_lora_weights": False} | settings)
        peft.get_peft_model(model, config).save_pretrained(folder / "adapter")
        return folder / "base", folder / "adapter"

    return save


def merged(name, base, adapter):
    """Return `{parameter: merged minus original}`, float64."""
    kind = type(BASES[name]())
    before = kind.from_pretrained(base, dtype=torch.float64)
    original = {key: value.clone() for key, value in before.state_dict().items()}
    after = peft.PeftModel.from_pretrained(before, adapter).merge_and_unload()
    return {key: (value - original[key]).detach().numpy() for key, value in after.state_dict().items()}


def agree(name, base, adapter, parameters):
    """Check every row against PEFT, and that these parameters are among them."""
    expected, seen = merged(name, base, adapter), set()
    for weight, delta in place(open_base(base), read_adapter(adapter)):
        parameter, _, expert = weight.module.partition("[")
        key = parameter if parameter in expected else f"{parameter}.weight"
        W = expected[key][int(expert[:-1])] if expert else expected[key]
        W = W.T if expert and name == "gpt-oss" else W.reshape(len(W), -1)
        # Two float64 products of the same float32 factors, and PEFT's is added to a weight and taken off again.
        np.testing.assert_allclose(delta.dense(), W, rtol=0, atol=1e-13 * (1 + np.abs(W).max()))
        seen.add(parameter)
    assert all(any(part in name for name in seen) for part in parameters)


@pytest.mark.parametrize("name", ["qwen2-moe", "gpt-oss"])
def test_experts_have_one_update_each(saved, name):
    agree(name, *saved(name, target_modules=["q_proj"], target_parameters=EXPERTS), ["gate_up_proj", "down_proj"])


def test_one_expert_parameter_alone(saved):
    folders = saved("qwen2-moe", target_modules=[], target_parameters=EXPERTS[1:], use_rslora=True)
    agree("qwen2-moe", *folders, ["down_proj"])
    assert len(read_adapter(folders[1]).modules) == 9


def test_embeddings_and_linear_maps(saved):
    agree("llama", *saved("llama", target_modules=["embed_tokens", "q_proj"]), ["embed_tokens", "q_proj"])


def test_a_convolution_is_out_by_all_its_inputs(saved):
    agree("vit", *saved("vit", target_modules=["projection", "q_proj"]), ["projection", "q_proj"])


def test_a_missing_alpha_is_pefts_default(saved):
    base, adapter = saved("llama", lora_alpha=8, target_modules=["q_proj"])
    config = json.loads((adapter / "adapter_config.json").read_text())
    del config["lora_alpha"]
    (adapter / "adapter_config.json").write_text(json.dumps(config))
    agree("llama", base, adapter, ["q_proj"])


def test_the_known_settings_and_defaults_are_pefts():
    fields = peft.LoraConfig.__dataclass_fields__
    assert set(fields) <= KNOWN_FIELDS
    assert {name: fields[name].default for name in DEFAULTS} == DEFAULTS


def test_a_layer_used_twice_has_its_own_row_on_the_layer_it_is_a_copy_of(saved):
    base, adapter = saved("llama", layer_replication=[[0, 2], [1, 3]], target_modules=["q_proj"])
    placement = place(open_base(base), read_adapter(adapter))
    assert [weight.module for weight in placement.weights] == [f"model.layers.{i}.self_attn.q_proj" for i in range(4)]
    assert [weight.key for weight in placement.weights] == [
        f"model.layers.{i}.self_attn.q_proj.weight" for i in (0, 1, 1, 2)
    ]


def test_two_adapters_in_one_file_are_named(saved):
    _, adapter = saved("llama", target_modules=["q_proj"])
    tensors = load_file(adapter / "adapter_model.safetensors")
    one = {key.replace(".weight", ".one.weight"): value for key, value in tensors.items()}
    two = {key.replace(".weight", ".two.weight"): 2 * value for key, value in tensors.items()}
    save_file(one | two, adapter / "adapter_model.safetensors")
    with pytest.raises(HiploraError, match="holds 2 adapters, one and two"):
        read_adapter(adapter)


def test_empty_tensors_are_those_of_zero_3(saved):
    _, adapter = saved("llama", target_modules=["q_proj"])
    tensors = load_file(adapter / "adapter_model.safetensors")
    part = {key: torch.zeros(0) if "layers.1." in key else value for key, value in tensors.items()}
    save_file(part, adapter / "adapter_model.safetensors")
    (caveat,) = read_adapter(adapter).caveats
    assert caveat.startswith("2 of its tensors are empty (model.layers.1.self_attn.q_proj")
    save_file({key: torch.zeros(0) for key in tensors}, adapter / "adapter_model.safetensors")
    with pytest.raises(HiploraError, match="holds empty tensors only, as a save under DeepSpeed ZeRO-3"):
        read_adapter(adapter)


def test_a_setting_that_peft_does_not_have_is_named(saved):
    _, adapter = saved("llama", target_modules=["q_proj"])
    config = json.loads((adapter / "adapter_config.json").read_text()) | {"scale_twice": True}
    (adapter / "adapter_config.json").write_text(json.dumps(config))
    assert read_adapter(adapter).caveats == ["adapter_config.json has settings that PEFT does not have: scale_twice."]


@pytest.mark.parametrize("wrapper", ["_orig_mod.", "module.", "base_model.model._orig_mod."])
def test_a_wrapper_left_in_the_names_is_named(saved, wrapper):
    base, adapter = saved("llama", target_modules=["q_proj"])
    tensors = load_file(adapter / "adapter_model.safetensors")
    old = "base_model.model." if wrapper.startswith("base_model") else ""
    save_file({wrapper + key.removeprefix(old): v for key, v in tensors.items()}, adapter / "adapter_model.safetensors")
    part = wrapper.rstrip(".").rpartition(".")[2]
    with pytest.raises(HiploraError, match=f"has names with {part}, which a wrapper of the model left in them"):
        place(open_base(base), read_adapter(adapter))


def test_a_config_with_a_byte_order_mark_is_read(saved):
    _, adapter = saved("llama", target_modules=["q_proj"])
    config = (adapter / "adapter_config.json").read_text()
    (adapter / "adapter_config.json").write_text(config, encoding="utf-8-sig")
    assert len(read_adapter(adapter).modules) == 3


def changed(adapter, **settings):
    """Write other settings into an adapter's config, and return it."""
    path = adapter / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | settings))
    return adapter


@pytest.mark.parametrize("alpha", [float("nan"), float("inf")])
def test_an_alpha_that_is_not_finite_is_refused(saved, alpha):
    read = read_adapter(changed(saved("llama", target_modules=["q_proj"])[1], lora_alpha=alpha))
    with pytest.raises(HiploraError, match="lora_alpha must be a number"):
        read.delta(read.modules[0])


@pytest.mark.parametrize("ranges", [[[0, 10**12]], [[0, 9_000]] * 2, "all", [[0]]])
def test_a_layer_replication_of_another_form_is_refused(saved, ranges):
    base, adapter = saved("llama", target_modules=["q_proj"])
    with pytest.raises(HiploraError, match=r"layer_replication must be a list of \[start, end\]"):
        place(open_base(base), read_adapter(changed(adapter, layer_replication=ranges)))


def test_a_factor_of_one_dimension_is_named(saved):
    _, adapter = saved("llama", target_modules=["q_proj"])
    tensors = load_file(adapter / "adapter_model.safetensors")
    key = next(iter(tensors))
    save_file(tensors | {key: torch.ones(3)}, adapter / "adapter_model.safetensors")
    with pytest.raises(HiploraError, match=f"{key} has 1 dimensions where a factor has two"):
        read_adapter(adapter)


def test_on_a_quantized_base_that_is_the_reason(saved):
    base, adapter = saved("llama", target_modules=["q_proj"])
    tensors = load_file(base / "model.safetensors")
    packed = {
        key.replace("q_proj.weight", "q_proj.qweight"): torch.zeros(4, 32, dtype=torch.int32) if "q_proj" in key else W
        for key, W in tensors.items()
    }
    save_file(packed, base / "model.safetensors")
    with pytest.raises(HiploraError, match=r"cannot be placed on base.*3 matrices.*are quantized by GPTQ or AWQ"):
        place(open_base(base), read_adapter(adapter))
