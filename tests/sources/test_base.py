import json
import random

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from hiplora.errors import HiploraError
from hiplora.sources import open_base
from hiplora.sources.base import BaseModel, in_data_order

LLAMA_ORDER = [
    f"model.layers.{i}.{kind}"
    for i in (0, 1)
    for kind in (
        "self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj",
        "mlp.gate_proj", "mlp.up_proj", "mlp.down_proj",
    )
]  # fmt: skip


def state(folder, architecture):
    import transformers

    return getattr(transformers, architecture).from_pretrained(folder).state_dict()


def test_a_llama_has_its_linear_maps_in_the_order_data_meets_them(llama_base):
    base = BaseModel(llama_base)
    assert base.linear_maps == LLAMA_ORDER
    assert base.name == "tiny-llama"


def test_every_matrix_is_the_models_own_out_x_in(llama_base):
    base, weights = BaseModel(llama_base), state(llama_base, "LlamaForCausalLM")
    for module in base.linear_maps:
        found = base.read(base.weights[module])
        np.testing.assert_array_equal(found, weights[f"{module}.weight"].numpy())
        assert base.weights[module].shape == found.shape


def test_conv1d_is_turned_to_out_x_in(gpt2_base):
    base, weights = BaseModel(gpt2_base), state(gpt2_base, "GPT2LMHeadModel")
    assert [name.removeprefix("transformer.") for name in base.linear_maps] == [
        f"h.{i}.{kind}" for i in (0, 1) for kind in ("attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj")
    ]
    for module in base.linear_maps:
        found = base.read(base.weights[module])
        expected = weights[f"{module}.weight"].numpy().T
        np.testing.assert_array_equal(found, expected)
        assert base.weights[module].shape == found.shape == expected.shape
        assert found.flags.c_contiguous


def test_a_sharded_model_is_the_same_model(llama_base, tmp_path):
    from transformers import AutoModelForCausalLM

    AutoModelForCausalLM.from_pretrained(llama_base).save_pretrained(tmp_path / "sharded", max_shard_size="20KB")
    whole, sharded = BaseModel(llama_base), BaseModel(tmp_path / "sharded")
    assert len(sharded.files) > 2
    assert sharded.linear_maps == whole.linear_maps
    for module in whole.linear_maps:
        np.testing.assert_array_equal(sharded.read(sharded.weights[module]), whole.read(whole.weights[module]))


def test_files_beside_those_of_the_index_are_not_the_model(tmp_path, llama_base, rng):
    from transformers import AutoModelForCausalLM

    folder = tmp_path / "sharded"
    AutoModelForCausalLM.from_pretrained(llama_base).save_pretrained(folder, max_shard_size="20KB")
    save_file({"stray.weight": rng.normal(size=(2, 2))}, folder / "consolidated.safetensors")
    assert "stray" not in BaseModel(folder).weights


def test_embeddings_norms_and_biases_are_no_linear_maps(write_base, rng):
    matrix, vector = rng.normal(size=(4, 4)), rng.normal(size=4)
    base = BaseModel(
        write_base("model", {
            "transformer.wte": matrix, "transformer.wpe": matrix, "shared": matrix, "model.embed_tokens": matrix,
            "bert.embeddings.word_embeddings": matrix, "block.0.layer.0.SelfAttention.relative_attention_bias": matrix,
            "model.norm": vector, "model.layers.0.self_attn.q_proj": matrix, "lm_head": matrix,
        })
    )  # fmt: skip
    assert base.linear_maps == ["model.layers.0.self_attn.q_proj", "lm_head"]


@pytest.mark.parametrize("order", [
    ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"],
    ["attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj"],
    ["attention.self.query", "attention.self.key", "attention.self.value", "attention.output.dense",
     "intermediate.dense", "output.dense"],
    ["attention.q_lin", "attention.k_lin", "attention.v_lin", "attention.out_lin", "ffn.lin1", "ffn.lin2"],
    ["self_attention.query_key_value", "self_attention.dense", "mlp.dense_h_to_4h", "mlp.dense_4h_to_h"],
    ["self_attn.qkv_proj", "self_attn.o_proj", "mlp.gate_up_proj", "mlp.down_proj"],
    ["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.out_proj", "fc1", "fc2"],
    ["layer.0.SelfAttention.q", "layer.0.SelfAttention.k", "layer.0.SelfAttention.v", "layer.0.SelfAttention.o",
     "layer.1.DenseReluDense.wi_0", "layer.1.DenseReluDense.wi_1", "layer.1.DenseReluDense.wo"],
])  # fmt: skip
def test_modules_stand_in_the_order_data_meets_them_in_many_families(order):
    expected = [f"model.layers.{i}.{kind}" for i in (0, 2, 10) for kind in order]
    shuffled = random.Random(0).sample(expected, len(expected))
    assert in_data_order(shuffled) == expected


def test_what_is_in_no_layer_comes_last_and_the_encoder_before_the_decoder():
    names = ["lm_head", "decoder.block.0.layer.0.SelfAttention.q", "encoder.block.0.layer.0.SelfAttention.q"]
    assert in_data_order(names) == names[::-1]


def test_a_module_is_found_with_and_without_the_bodys_prefix(write_base, rng):
    body = BaseModel(write_base("body", {"h.0.attn.c_attn": rng.normal(size=(4, 12))}, model_type="gpt2"))
    for name in ("transformer.h.0.attn.c_attn", "h.0.attn.c_attn"):
        assert body.find(name).module == "transformer.h.0.attn.c_attn"
    whole = BaseModel(write_base("whole", {"transformer.h.0.attn.c_attn": rng.normal(size=(4, 12))}, model_type="gpt2"))
    assert whole.find("h.0.attn.c_attn").module == "transformer.h.0.attn.c_attn"
    assert whole.find("h.1.attn.c_attn") is None
    assert whole.find("attn.c_attn_extra") is None


def test_a_name_that_fits_two_places_is_found_in_neither(write_base, rng):
    W = rng.normal(size=(4, 4))
    base = BaseModel(write_base("model", {"encoder.layers.0.fc1": W, "decoder.layers.0.fc1": W}))
    assert base.find("layers.0.fc1") is None


def test_a_tied_head_is_the_embedding_and_counts_once(llama_base):
    base = BaseModel(llama_base)
    assert "lm_head" not in base.linear_maps
    assert base.find("lm_head").module == "model.embed_tokens"


def test_a_head_of_its_own_is_found_as_itself(write_base, rng):
    weights = {"model.embed_tokens": rng.normal(size=(4, 3)), "lm_head": rng.normal(size=(4, 3))}
    assert BaseModel(write_base("untied", weights, tie_word_embeddings=False)).find("lm_head").module == "lm_head"


def test_a_missing_head_of_an_untied_model_is_not_the_embedding(write_base, rng):
    base = BaseModel(write_base("body", {"model.embed_tokens": rng.normal(size=(4, 3))}, tie_word_embeddings=False))
    assert base.find("lm_head") is None


def test_weights_keep_the_dtype_they_are_stored_in(llama_base, tmp_path):
    import torch
    from transformers import AutoModelForCausalLM

    AutoModelForCausalLM.from_pretrained(llama_base, dtype=torch.bfloat16).save_pretrained(tmp_path / "half")
    base = BaseModel(tmp_path / "half")
    assert base.read(base.weights[LLAMA_ORDER[0]]).dtype.name == "bfloat16"


def test_the_identity_changes_when_the_files_do(llama_base, changed_copy):
    copy = changed_copy(llama_base, "copy", lambda tensors: tensors, file="model.safetensors")
    before = BaseModel(copy).identity
    assert BaseModel(copy).identity == before
    save_file(load_file(copy / "model.safetensors") | {"x": np.zeros(1)}, copy / "model.safetensors")
    assert BaseModel(copy).identity != before


def test_a_missing_folder_is_named(tmp_path):
    with pytest.raises(HiploraError, match=r"absent is not a folder: pass a transformers model folder"):
        open_base(tmp_path / "absent")


def test_a_folder_without_a_config_is_named(tmp_path):
    with pytest.raises(HiploraError, match=r"config\.json is missing"):
        open_base(tmp_path)


def test_an_adapter_in_place_of_a_base_is_said_to_be_one(lora_folder):
    with pytest.raises(HiploraError, match="plain-lora is an adapter: pass the base model"):
        open_base(lora_folder)


def test_a_model_in_pickles_only_is_never_opened(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "pytorch_model.bin").write_bytes(b"\x80\x04.")
    with pytest.raises(HiploraError, match=r"pytorch_model\.bin is a pickle, which could run code.*save_pretrained"):
        open_base(tmp_path)


def test_a_folder_without_weights_is_named(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(HiploraError, match=r"has no \.safetensors weights"):
        open_base(tmp_path)


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_a_git_lfs_pointer_is_named(llama_base, tmp_path, lfs_pointer, name):
    for path in llama_base.iterdir():
        (tmp_path / path.name).write_bytes(lfs_pointer if path.name == name else path.read_bytes())
    with pytest.raises(HiploraError, match=rf"{name} is a Git LFS pointer.*git lfs pull"):
        open_base(tmp_path)


def test_a_shard_that_the_index_names_and_is_not_there_is_named(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    index = {"weight_map": {"a.weight": "model-00001-of-00002.safetensors"}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(HiploraError, match=r"model-00001-of-00002\.safetensors is missing"):
        open_base(tmp_path)


@pytest.mark.parametrize("index", [{}, {"weight_map": []}, {"weight_map": {"a.weight": 3}}])
def test_an_index_without_a_map_of_files_is_named(tmp_path, index):
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(HiploraError, match=r"index\.json has no weight_map"):
        open_base(tmp_path)


def test_a_truncated_model_is_named(llama_base, tmp_path):
    (tmp_path / "config.json").write_bytes((llama_base / "config.json").read_bytes())
    whole = (llama_base / "model.safetensors").read_bytes()
    (tmp_path / "model.safetensors").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(HiploraError, match=r"model\.safetensors is not a readable safetensors file"):
        open_base(tmp_path)


def test_nan_is_named_with_its_tensor(write_base):
    base = BaseModel(write_base("model", {"a": np.full((2, 2), np.nan)}))
    with pytest.raises(HiploraError, match=r"model\.safetensors: a\.weight holds NaN"):
        base.read(base.weights["a"])


@pytest.mark.parametrize("dtype", ["int8", "uint8", "float8_e4m3fn"])
def test_quantised_codes_are_not_taken_for_weights(write_base, dtype):
    import torch
    from safetensors.torch import save_file as save_torch

    folder = write_base("model", {"a": np.ones((2, 2))})
    save_torch({"a.weight": torch.ones(2, 2).to(getattr(torch, dtype))}, folder / "model.safetensors")
    base = BaseModel(folder)
    with pytest.raises(HiploraError, match=r"a\.weight is quantized .* in 16 or 32 bits"):
        base.read(base.weights["a"])
