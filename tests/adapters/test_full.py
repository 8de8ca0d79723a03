import json

import numpy as np
import peft
import pytest
import torch
import transformers as hf

import hiplora
from hiplora.adapters import FullUpdate, place, read_adapter
from hiplora.errors import HiploraError
from hiplora.sources import open_base
from tests.conformance.merged import disagreements, train


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """Return the folders of a base, of a LoRA on it, and of a copy that the LoRA was merged into, and its deltas."""
    folder = tmp_path_factory.mktemp("models")
    torch.manual_seed(0)
    model = hf.Qwen2ForCausalLM(
        hf.Qwen2Config(
            vocab_size=64, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
            num_key_value_heads=2, max_position_embeddings=32, tie_word_embeddings=False,
        )
    )  # fmt: skip
    model.save_pretrained(folder / "base")
    trained = train(model, peft.LoraConfig(r=4, target_modules=["q_proj", "down_proj"]), folder / "lora")
    merged = peft.PeftModel.from_pretrained(model, folder / "lora").merge_and_unload()
    merged.save_pretrained(folder / "merged")
    return folder, trained.deltas


def test_a_whole_model_is_an_update_of_each_linear_map(models):
    folder, deltas = models
    base, full = open_base(folder / "base"), read_adapter(folder / "merged")
    assert isinstance(full, FullUpdate)
    assert list(full.modules) == base.linear_maps
    assert "lm_head" in full.modules
    # The sum was rounded to float32 once.
    assert max(disagreements(place(base, full), deltas).values()) < 1e-5


def test_it_stands_beside_the_adapter_that_was_merged_in(models):
    folder, _ = models
    study = hiplora.open(folder / "base", [folder / "lora", folder / "merged"], k=8)
    table = study.layers().pivot_table(index="module", columns="adapter", values="pp", observed=True)
    both = table.dropna()
    assert len(both) == 4
    np.testing.assert_allclose(both["merged"], both["lora"], rtol=1e-4)
    assert "It is a whole model: its embeddings, norms and biases are not in these numbers." in study.caveats["merged"]
    assert "11 of its modules do nothing: their update is zero." in study.caveats["merged"]


def test_without_its_base_it_says_that_it_needs_one(models):
    full = read_adapter(models[0] / "merged")
    with pytest.raises(HiploraError, match=r"merged is a whole model, whose update is known on its base only"):
        full.delta(full.modules[0])


def test_another_architecture_is_refused(models, tmp_path):
    config = hf.GPT2Config(n_embd=32, n_layer=1, n_head=4, vocab_size=64, n_positions=32, bos_token_id=0)
    hf.GPT2LMHeadModel(config).save_pretrained(tmp_path)
    with pytest.raises(HiploraError, match="belongs to another base"):
        place(open_base(models[0] / "base"), read_adapter(tmp_path))


def test_a_folder_with_an_adapter_in_it_is_the_adapter(models, tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "qwen2"}))
    for file in (models[0] / "lora").iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    assert read_adapter(tmp_path).method == "LoRA"
