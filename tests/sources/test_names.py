import pytest

from hiplora.sources import layer_and_kind, strip_peft_prefix, with_stack


@pytest.mark.parametrize(("module", "layer", "kind"), [
    ("model.layers.3.self_attn.q_proj", 3, "self_attn.q_proj"),
    ("transformer.h.11.attn.c_attn", 11, "attn.c_attn"),
    ("h.0.mlp.c_fc", 0, "mlp.c_fc"),
    ("encoder.layer.5.attention.self.query", 5, "attention.self.query"),
    ("encoder.block.1.layer.0.SelfAttention.q", 1, "layer.0.SelfAttention.q"),
    ("decoder.block.1.layer.0.SelfAttention.q", 1, "decoder.layer.0.SelfAttention.q"),
    ("model.decoder.layers.2.fc1", 2, "decoder.fc1"),
    ("model.layers.7.mlp.experts.12.w1", 7, "mlp.experts.12.w1"),
    ("lm_head", None, "lm_head"),
    ("model.layer2norm.weight1.x", None, "model.layer2norm.weight1.x"),
])  # fmt: skip
def test_a_name_tells_the_layer_and_the_kind_of_matrix(module, layer, kind):
    assert layer_and_kind(module) == (layer, kind)


@pytest.mark.parametrize("prefix", ["", "base_model.model.", "base_model.model.base_model.model."])
def test_pefts_prefix_goes_however_often_it_stands_there(prefix):
    assert strip_peft_prefix(f"{prefix}model.layers.0.q_proj") == "model.layers.0.q_proj"


def test_stacks_are_told_apart_by_where_their_names_part():
    names = ["clip.text_model.layers.0.q", "clip.vision_model.layers.0.q", "lm_head"]
    assert with_stack(names) == ["text_model.layers.q", "vision_model.layers.q", "lm_head"]
