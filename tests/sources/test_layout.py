"""Names on disk against names in memory: what transformers itself has after loading."""

import json

import numpy as np
import pytest
import torch
import transformers as hf
from safetensors.torch import load_file, save_file
from transformers.pytorch_utils import Conv1D

from hiplora.errors import HiploraError
from hiplora.sources import open_base
from hiplora.sources.integers import Packing
from hiplora.sources.layout import PLAIN_TYPES
from hiplora.sources.transformers_models import conversions, meta_model

TEXT = {
    "vocab_size": 96, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 64,
}  # fmt: skip
VISION = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2}
EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 40}


def tiny(name):
    """Return a small model of one architecture."""
    llama = hf.LlamaConfig(**TEXT)
    rope = {"rope_type": "default", "type": "default", "mrope_section": [1, 1, 2]}
    return {
        "gpt2": lambda: hf.GPT2LMHeadModel(
            hf.GPT2Config(vocab_size=96, n_embd=32, n_layer=2, n_head=4, n_positions=32)
        ),
        "qwen2.5-vl": lambda: hf.Qwen2_5_VLForConditionalGeneration(
            hf.Qwen2_5_VLConfig(
                text_config=TEXT | {"rope_scaling": rope},
                vision_config={"depth": 1, "hidden_size": 16, "intermediate_size": 24, "num_heads": 2,
                               "out_hidden_size": 32, "patch_size": 14, "fullatt_block_indexes": [0]},
                image_token_id=90, video_token_id=91, vision_start_token_id=92, vision_end_token_id=93,
            )
        ),
        "llava": lambda: hf.LlavaForConditionalGeneration(
            hf.LlavaConfig(
                text_config=llama,
                vision_config=hf.CLIPVisionConfig(**VISION, image_size=28, patch_size=14, projection_dim=16),
                image_token_index=90,
            )
        ),
        "vit": lambda: hf.ViTForImageClassification(hf.ViTConfig(**VISION, image_size=16, patch_size=8)),
        "qwen2-moe": lambda: hf.Qwen2MoeForCausalLM(
            hf.Qwen2MoeConfig(**TEXT, **EXPERTS, shared_expert_intermediate_size=24)
        ),
        "mixtral": lambda: hf.MixtralForCausalLM(hf.MixtralConfig(**TEXT, num_local_experts=4)),
        "gpt-oss": lambda: hf.GptOssForCausalLM(
            hf.GptOssConfig(**TEXT, head_dim=8, num_local_experts=4, num_experts_per_tok=2)
        ),
        "mamba": lambda: hf.MambaForCausalLM(
            hf.MambaConfig(vocab_size=96, hidden_size=32, num_hidden_layers=2, state_size=8, time_step_rank=4)
        ),
        "speech decoder on Conv1D": lambda: hf.VisionEncoderDecoderModel(
            encoder=hf.ViTModel(hf.ViTConfig(**VISION, image_size=16, patch_size=8)),
            decoder=hf.GPT2LMHeadModel(
                hf.GPT2Config(vocab_size=96, n_embd=16, n_layer=1, n_head=2, n_positions=8, add_cross_attention=True)
            ),
        ),
    }[name]()  # fmt: skip


ARCHITECTURES = [
    "gpt2", "qwen2.5-vl", "llava", "vit", "qwen2-moe", "mixtral", "gpt-oss", "mamba", "speech decoder on Conv1D",
]  # fmt: skip


def saved(name, folder):
    torch.manual_seed(0)
    model = tiny(name)
    model.save_pretrained(folder)
    return model


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_every_matrix_in_memory_is_there_under_its_name_with_its_values(name, tmp_path):
    model = saved(name, tmp_path)
    base, modules = open_base(tmp_path), dict(model.named_modules())
    expected = {}
    for parameter, value in model.named_parameters():
        owner, _, leaf = parameter.rpartition(".")
        if value.ndim == 2 and leaf == "weight":
            expected[owner] = value.T if isinstance(modules[owner], Conv1D) else value
        elif value.ndim == 3 and "experts" in parameter:
            turned = getattr(modules[owner], "is_transposed", False)
            expected |= {f"{parameter}[{e}]": value[e].T if turned else value[e] for e in range(len(value))}
    found = {name: weight for name, weight in base.weights.items() if name in expected}
    assert set(found) == set(expected)
    for module, weight in found.items():
        assert weight.shape == tuple(expected[module].shape)
        np.testing.assert_array_equal(base.read(weight), expected[module].detach().numpy())
    assert base.notes == []


def test_a_layout_is_remembered_without_transformers(tmp_path, monkeypatch):
    saved("llava", tmp_path)
    first = open_base(tmp_path)
    names = list(first.weights)

    def refuse(*_):
        raise AssertionError("transformers was asked again")

    monkeypatch.setattr("hiplora.sources.layout._ask_transformers", refuse)
    assert list(open_base(tmp_path).weights) == names


@pytest.mark.parametrize("model_type", sorted(PLAIN_TYPES))
def test_plain_types_have_the_same_names_on_disk_and_in_memory(model_type, tmp_path):
    config = hf.CONFIG_MAPPING[model_type]()
    model = meta_model(tmp_path, config.to_dict() | {"architectures": None}, 1000)
    renamings, converters = conversions(model)
    assert converters == []
    names = [name for name, value in model.state_dict().items() if value.ndim == 2]
    assert all(renaming.rename_source_key(name)[0] == name for name in names for renaming in renamings)
    assert not any(isinstance(module, Conv1D) for module in model.modules())


def test_a_name_on_disk_finds_the_module_in_memory(tmp_path):
    saved("qwen2.5-vl", tmp_path)
    found = open_base(tmp_path).find("model.layers.0.self_attn.q_proj")
    assert found.module == "model.language_model.layers.0.self_attn.q_proj"


def test_one_experts_own_matrix_is_found_by_its_name_on_disk(tmp_path):
    model = saved("mixtral", tmp_path)
    base = open_base(tmp_path)
    weight = base.find("model.layers.1.block_sparse_moe.experts.2.w2")
    expected = model.model.layers[1].mlp.experts.down_proj[2].detach().numpy()
    np.testing.assert_array_equal(base.read(weight), expected)


def test_a_tied_head_is_what_transformers_ties_it_to(tmp_path):
    saved("gpt2", tmp_path)
    assert open_base(tmp_path).find("lm_head").module == "transformer.wte"


def test_an_architecture_that_transformers_does_not_know_goes_by_the_names_in_its_files(write_base, rng):
    base = open_base(write_base("own", {"blocks.0.mix": rng.normal(size=(4, 3))}, model_type="of-my-own"))
    assert list(base.weights) == ["blocks.0.mix"]
    assert "of-my-own" in base.notes[0]
    assert "names in the files" in base.notes[0]


@pytest.mark.parametrize("field", ["num_hidden_layers", "num_local_experts"])
def test_a_config_of_more_layers_than_the_files_hold_is_not_built(write_base, rng, field):
    sizes = {field: 10**9, "model_type": "mixtral", "architectures": ["MixtralForCausalLM"]}
    base = open_base(write_base("bomb", {"model.layers.0.self_attn.q_proj": rng.normal(size=(4, 4))}, **sizes))
    assert "more than the checkpoint holds" in base.notes[0]


def test_float8_with_scales_by_block_is_what_transformers_makes_of_it(tmp_path):
    from transformers.integrations.finegrained_fp8 import Fp8Dequantize

    torch.manual_seed(0)
    hf.LlamaForCausalLM(hf.LlamaConfig(**TEXT)).save_pretrained(tmp_path)
    key, tensors = "model.layers.0.mlp.up_proj.weight", load_file(tmp_path / "model.safetensors")
    codes, scales = tensors[key].to(torch.float8_e4m3fn), torch.rand(3, 2)
    save_file(tensors | {key: codes, f"{key}_scale_inv": scales}, tmp_path / "model.safetensors")
    base = open_base(tmp_path)
    expected = Fp8Dequantize(None)._dequantize_one(codes, scales, torch.float32)
    np.testing.assert_array_equal(base.read(base.weights[key.removesuffix(".weight")]), expected.numpy())


def test_mxfp4_experts_are_what_transformers_makes_of_them(tmp_path):
    from transformers.integrations.mxfp4 import convert_moe_packed_tensors

    saved("gpt-oss", tmp_path)
    name = "model.layers.0.mlp.experts.gate_up_proj"
    tensors = load_file(tmp_path / "model.safetensors")
    blocks = torch.randint(0, 256, (4, 96, 1, 16), dtype=torch.uint8)
    scales = torch.randint(120, 130, (4, 96, 1), dtype=torch.uint8)
    del tensors[name]
    save_file(tensors | {f"{name}_blocks": blocks, f"{name}_scales": scales}, tmp_path / "model.safetensors")
    base = open_base(tmp_path)
    expected = convert_moe_packed_tensors(blocks, scales, dtype=torch.float32)
    for expert in (0, 3):
        np.testing.assert_array_equal(base.read(base.weights[f"{name}[{expert}]"]), expected[expert].T.numpy())


def test_bitsandbytes_in_8_bits_is_scaled_by_row(tmp_path):
    hf.LlamaForCausalLM(hf.LlamaConfig(**TEXT)).save_pretrained(tmp_path)
    key, tensors = "model.layers.0.mlp.up_proj", load_file(tmp_path / "model.safetensors")
    W = tensors[f"{key}.weight"]
    rows = W.abs().amax(1)
    codes = (W / rows[:, None] * 127).round().to(torch.int8)
    save_file(tensors | {f"{key}.weight": codes, f"{key}.SCB": rows}, tmp_path / "model.safetensors")
    base = open_base(tmp_path)
    # Half a step of the largest entry of each row.
    assert np.all(np.abs(base.read(base.weights[key]) - W.numpy()) <= rows.numpy()[:, None] / 127 * 0.5001)


@pytest.mark.parametrize("kind", ["nf4", "fp4"])
def test_bitsandbytes_in_4_bits_is_what_the_library_gives(tmp_path, kind):
    # Not in the lock: PEFT imports it wherever it is installed, which costs each process 2 s.
    bnb = pytest.importorskip("bitsandbytes")
    hf.LlamaForCausalLM(hf.LlamaConfig(**TEXT | {"hidden_size": 64})).save_pretrained(tmp_path / "whole")
    settings = hf.BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type=kind, bnb_4bit_use_double_quant=kind == "nf4"
    )
    model = hf.AutoModelForCausalLM.from_pretrained(tmp_path / "whole", quantization_config=settings, device_map="cpu")
    model.save_pretrained(tmp_path / "packed")
    base = open_base(tmp_path / "packed")
    packed = {name: module.weight for name, module in model.named_modules() if isinstance(module, bnb.nn.Linear4bit)}
    assert len(packed) == 14
    for name, weight in packed.items():
        expected = bnb.functional.dequantize_4bit(weight.data, weight.quant_state).float().numpy()
        np.testing.assert_array_equal(base.read(base.weights[name]), expected)


def _packed(values, bits, axis, order=None):
    """Pack numbers into words of 32 bits along an axis, one at a time, as the formats are published."""
    per_word = 32 // bits
    values = np.moveaxis(np.asarray(values, dtype=np.uint64), axis, -1)
    words = np.zeros((*values.shape[:-1], values.shape[-1] // per_word), dtype=np.uint64)
    for place in range(values.shape[-1]):
        word, within = divmod(place, per_word)
        slot = order.index(within) if order else within
        words[..., word] |= values[..., place] << np.uint64(bits * slot)
    return torch.from_numpy(np.moveaxis(words.astype(np.uint32).view(np.int32), -1, axis).copy())


@pytest.mark.parametrize(("method", "bits"), [("gptq", 2), ("gptq", 4), ("gptq", 8), ("gptq_v2", 4), ("awq", 4)])
def test_integers_by_group_are_the_weights_they_stand_for(tmp_path, method, bits):
    hf.LlamaForCausalLM(hf.LlamaConfig(**TEXT)).save_pretrained(tmp_path)
    key, rng = "model.layers.0.mlp.up_proj", np.random.default_rng(0)
    m, n, groups = 48, 32, 2
    q, zeros = rng.integers(0, 2**bits, (n, m)), rng.integers(1, 2**bits, (groups, m))
    scales = rng.uniform(0.1, 1, (groups, m)).astype(np.float16)
    of_input = rng.permutation(np.repeat(np.arange(groups), n // groups))
    tensors = load_file(tmp_path / "model.safetensors")
    del tensors[f"{key}.weight"]
    if method == "awq":
        # Its word holds outputs 0, 2, 4, 6, 1, 3, 5, 7.
        order, of_input = [0, 2, 4, 6, 1, 3, 5, 7], np.repeat(np.arange(groups), n // groups)
        parts = {"qweight": _packed(q, bits, 1, order), "qzeros": _packed(zeros, bits, 1, order)}
    else:
        stored = zeros - (method == "gptq")
        parts = {"qweight": _packed(q, bits, 0), "qzeros": _packed(stored, bits, 1)}
        parts["g_idx"] = torch.from_numpy(of_input.astype(np.int32))
    tensors |= {f"{key}.{name}": each.contiguous() for name, each in parts.items()}
    save_file(tensors | {f"{key}.scales": torch.from_numpy(scales)}, tmp_path / "model.safetensors")
    stated = {"quant_method": method.removesuffix("_v2"), "bits": bits, "group_size": n // groups}
    stated |= {"checkpoint_format": method} if method != "awq" else {"version": "gemm"}
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"quantization_config": stated}))
    base = open_base(tmp_path)
    assert base.notes == []
    expected = scales.astype(np.float64)[of_input] * (q - zeros[of_input])
    np.testing.assert_allclose(base.read(base.weights[key]), expected.T, rtol=2**-23)


def test_integers_that_do_not_fit_each_other_are_one_sentence(tmp_path):
    hf.LlamaForCausalLM(hf.LlamaConfig(**TEXT)).save_pretrained(tmp_path)
    key, tensors = "model.layers.0.mlp.up_proj", load_file(tmp_path / "model.safetensors")
    del tensors[f"{key}.weight"]
    tensors[f"{key}.qweight"], tensors[f"{key}.qzeros"] = (
        torch.zeros(*size, dtype=torch.int32) for size in ((4, 48), (3, 6))
    )
    save_file(tensors | {f"{key}.scales": torch.ones(3, 48).half()}, tmp_path / "model.safetensors")
    config = json.loads((tmp_path / "config.json").read_text())
    stated = {"quantization_config": {"quant_method": "gptq", "bits": 4}}
    (tmp_path / "config.json").write_text(json.dumps(config | stated))
    base = open_base(tmp_path)
    with pytest.raises(
        HiploraError, match=rf"the parts of {key}.weight do not fit each other \(32 inputs in 3 groups\)"
    ):
        base.read(base.weights[key])


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"g_idx": torch.full((32,), 9, dtype=torch.int32)}, "inputs in other groups than 2"),
        ({"g_idx": torch.zeros(32)}, "inputs in other groups than 2"),
        ({"scales": torch.ones(0, 48).half()}, "words"),
        ({"qweight": torch.zeros(4, dtype=torch.int32)}, "words"),
    ],
)
def test_damaged_integers_are_one_sentence(change, reason):
    parts = {"qweight": torch.zeros(4, 48, dtype=torch.int32), "qzeros": torch.zeros(2, 6, dtype=torch.int32)}
    parts |= {"scales": torch.ones(2, 48).half(), "g_idx": torch.zeros(32, dtype=torch.int32)} | change
    packing = Packing("gptq", 4, 1)
    with pytest.raises(ValueError, match=reason):
        packing.unpack(*(parts[name].numpy() for name in ("qweight", "qzeros", "scales", "g_idx")))


def test_gptq_of_an_unknown_layout_is_named(tmp_path):
    hf.LlamaForCausalLM(hf.LlamaConfig(**TEXT)).save_pretrained(tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    del tensors["model.layers.0.mlp.up_proj.weight"]
    tensors["model.layers.0.mlp.up_proj.qweight"] = torch.zeros(4, 48, dtype=torch.int32)
    save_file(tensors, tmp_path / "model.safetensors")
    base = open_base(tmp_path)
    assert "model.layers.0.mlp.up_proj" not in base.weights
    assert "such as model.layers.0.mlp.up_proj, are quantized by GPTQ or AWQ" in base.notes[0]


def test_the_model_counts_before_an_index_and_other_files(tmp_path):
    model = saved("vit", tmp_path)
    (tmp_path / "stale.safetensors").write_bytes(b"not even one")
    index = {"weight_map": {"classifier.weight": "stale.safetensors"}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    base = open_base(tmp_path)
    np.testing.assert_array_equal(base.read(base.weights["classifier"]), model.classifier.weight.detach().numpy())


def test_an_adapters_file_is_never_a_base(tmp_path):
    saved("vit", tmp_path)
    (tmp_path / "model.safetensors").rename(tmp_path / "adapter_model.safetensors")
    with pytest.raises(HiploraError, match="holds an adapter's weights only: pass the folder of the base model"):
        open_base(tmp_path)


def test_two_models_without_a_usual_name_are_named(tmp_path):
    saved("vit", tmp_path)
    (tmp_path / "one.safetensors").write_bytes((tmp_path / "model.safetensors").read_bytes())
    (tmp_path / "model.safetensors").rename(tmp_path / "two.safetensors")
    with pytest.raises(HiploraError, match=r"holds one\.safetensors, two\.safetensors and no model\.safetensors"):
        open_base(tmp_path)


def test_a_link_out_of_the_folder_is_not_followed(tmp_path):
    saved("vit", tmp_path / "model")
    (tmp_path / "model" / "model.safetensors").rename(tmp_path / "elsewhere.safetensors")
    (tmp_path / "model" / "model.safetensors").symlink_to(tmp_path / "elsewhere.safetensors")
    with pytest.raises(HiploraError, match="is a link to a file outside its folder"):
        open_base(tmp_path / "model")


def test_a_folder_in_the_hubs_cache_has_the_name_of_its_repository(tmp_path):
    home = tmp_path / "models--org--tiny"
    snapshot = home / "snapshots" / ("0123456789" * 4)
    saved("vit", snapshot)
    (home / "blobs").mkdir()
    for file in list(snapshot.iterdir()):
        file.rename(home / "blobs" / file.name)
        file.symlink_to(home / "blobs" / file.name)
    assert open_base(snapshot).name == "org/tiny"
    assert "classifier" in open_base(snapshot).weights
