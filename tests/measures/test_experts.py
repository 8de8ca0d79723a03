import numpy as np
import pandas as pd
import pytest

from hiplora.measures import expert_table, split_expert, with_expert_sums


@pytest.fixture(scope="module")
def layers(tmp_path_factory):
    """The layer table of a LoRA on a router's map and on three experts in each of two layers."""
    import peft
    import torch
    import transformers

    from hiplora.study import open_study

    folder = tmp_path_factory.mktemp("experts")
    torch.manual_seed(0)
    config = transformers.Qwen2MoeConfig(
        vocab_size=64, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=32, num_experts=3, num_experts_per_tok=2,
        moe_intermediate_size=40, shared_expert_intermediate_size=24,
    )  # fmt: skip
    model = transformers.Qwen2MoeForCausalLM(config)
    model.save_pretrained(folder / "base")
    lora = peft.LoraConfig(
        r=2, target_modules=["q_proj"], target_parameters=["mlp.experts.down_proj"], init_lora_weights=False
    )
    peft.get_peft_model(model, lora).save_pretrained(folder / "lora")
    return open_study(folder / "base", [folder / "lora"], k=4).layers()


def test_an_expert_is_told_from_its_parameter():
    assert split_expert("mlp.experts.down_proj[12]") == ("mlp.experts.down_proj", 12)
    assert split_expert("mlp.gate") == ("mlp.gate", None)


def test_the_energy_of_a_parameter_is_that_of_its_experts(layers):
    sums = expert_table(layers).set_index("module")
    for layer in (0, 1):
        parameter = f"model.layers.{layer}.mlp.experts.down_proj"
        experts = layers[layers["module"].str.startswith(f"{parameter}[")]
        energy = experts["norm"] ** 2
        row = sums.loc[parameter]
        assert row["experts"] == len(experts) == 3
        assert row["norm"] == pytest.approx(np.sqrt(energy.sum()))
        assert row["pp"] == pytest.approx((energy * experts["pp"]).sum() / energy.sum())
        assert row["pp"] + row["pr"] + row["rp"] + row["rr"] == pytest.approx(1)


def test_the_sums_stand_where_the_experts_stood(layers):
    table = with_expert_sums(layers)
    assert list(table["module"]) == list(dict.fromkeys(split_expert(module)[0] for module in layers["module"]))
    pd.testing.assert_frame_equal(
        table[table["kind"] == "self_attn.q_proj"].reset_index(drop=True),
        layers[layers["kind"] == "self_attn.q_proj"].reset_index(drop=True),
    )
