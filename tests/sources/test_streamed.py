"""A model read from disk block by block computes what the model in memory does, and holds one block."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

from hiplora.errors import HiploraError
from hiplora.sources import open_base
from hiplora.sources.streamed import stream_causal_lm
from tests.conformance.architectures import ARCHITECTURES

CAUSAL = ["Llama", "Qwen2", "Gemma 2", "Phi-3", "GPT-2", "GPT-NeoX", "OPT", "BLOOM", "Falcon", "Gemma 3", "Qwen2-MoE",
          "Mixtral", "Mamba"]  # fmt: skip
IDS = torch.arange(3, 30).reshape(3, 9)
MASK = torch.ones_like(IDS)
MASK[1, 5:] = 0


def logits(model):
    with torch.inference_mode():
        return model(input_ids=IDS, attention_mask=MASK, use_cache=False).logits


def streamed(folder):
    return stream_causal_lm(open_base(folder), "cpu")[0]


@pytest.fixture
def save(tmp_path):
    """Return `save(model)`: the folder of a model, in 16 bits."""

    def write(model):
        model.to(torch.bfloat16).save_pretrained(tmp_path / "base")
        return tmp_path / "base"

    return write


@pytest.fixture
def llama():
    """Return a Llama of three blocks with a head of its own."""
    torch.manual_seed(0)
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=64, hidden_size=32, intermediate_size=48, num_hidden_layers=3, num_attention_heads=4,
            tie_word_embeddings=False,
        )
    )  # fmt: skip


@pytest.mark.parametrize("name", CAUSAL)
def test_it_computes_the_same_bits_as_the_whole_model(save, name):
    torch.manual_seed(0)
    folder = save(ARCHITECTURES[name]())
    whole = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    assert torch.equal(logits(streamed(folder)), logits(whole))


def test_one_block_is_held_at_a_time(save, llama):
    model, held = streamed(save(llama)), []
    for layer in model.model.layers:
        layer.register_forward_hook(
            lambda *_: held.append({name for name, value in model.named_parameters() if not value.is_meta})
        )
    logits(model)
    for number, names in enumerate(held):
        assert len(names) == 9
        assert all(name.startswith(f"model.layers.{number}.") for name in names)


def test_a_second_pass_is_as_the_first(save, llama):
    model = streamed(save(llama))
    assert torch.equal(logits(model), logits(model))


def test_quantized_weights_are_the_numbers_that_they_stand_for(save, llama):
    folder = save(llama)
    tensors = load_file(folder / "model.safetensors")
    key = "model.layers.1.mlp.up_proj.weight"
    packed = (tensors[key].float() / 0.25).to(torch.float8_e4m3fn)
    save_file(tensors | {key: packed.float() * 0.25}, folder / "model.safetensors", {"format": "pt"})
    expected = logits(AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval())
    scale = torch.tensor([0.25])
    save_file(tensors | {key: packed, f"{key}_scale": scale}, folder / "model.safetensors", {"format": "pt"})
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"quantization_config": {"quant_method": "fp8"}}))
    assert torch.equal(logits(streamed(folder)), expected)


def test_what_the_files_lack_is_told_and_refused_when_it_is_needed(save, llama):
    folder = save(llama)
    tensors = load_file(folder / "model.safetensors")
    del tensors["model.layers.1.mlp.up_proj.weight"]
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    model, missing = stream_causal_lm(open_base(folder), "cpu")
    assert missing == ["model.layers.1.mlp.up_proj.weight"]
    with pytest.raises(HiploraError, match=r"has no weights for model\.layers\.1\.mlp\.up_proj\.weight: download"):
        logits(model)


def test_the_config_of_another_model_is_one_sentence(save, llama):
    folder = save(llama)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"intermediate_size": 40}))
    with pytest.raises(HiploraError, match=r"gate_proj\.weight is 48 x 32 in the files and 40 x 32 by config\.json"):
        logits(streamed(folder))
