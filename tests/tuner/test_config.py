"""Fields and patterns of HipLoraConfig, and the sentence that refuses each bad value."""

import pytest
from peft import PeftConfig

from hiplora.errors import HiploraError
from hiplora.tuner import HipLoraConfig, HipPeftType


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("r", 0),
        ("r", -3),
        ("r", 2.5),
        ("r", True),
        ("r", "8"),
        ("lora_alpha", 0),
        ("lora_alpha", float("nan")),
        ("lora_dropout", 1.0),
        ("lora_dropout", -0.1),
        ("principal_rank", 0),
        ("principal_rank", 1.0),
        ("principal_rank", 16.0),
        ("principal_rank", 0.0),
        ("core", "banded"),
        ("budget_mode", "off"),
        ("budget_lambda", -1),
        ("budget_lambda", float("inf")),
        ("epsilon", 0),
        ("epsilon", 1e-30),
        ("budget_power", -1),
        ("bias", "all"),
        ("rank_pattern", {"q_proj": 0}),
        ("alpha_pattern", {"q_proj": -1}),
        ("principal_rank_pattern", {"q_proj": 1.5}),
        ("epsilon_pattern", {"q_proj": 0.0}),
    ],
)
def test_bad_value_is_refused_by_name(field, value):
    shown = next(iter(value.values())) if isinstance(value, dict) else value
    with pytest.raises(HiploraError, match=rf"{field}.*{shown!r}"):
        HipLoraConfig(**{field: value})


def test_layers_need_names():
    with pytest.raises(HiploraError, match="layers_to_transform"):
        HipLoraConfig(target_modules=".*q_proj", layers_to_transform=[0])
    with pytest.raises(HiploraError, match="layers_pattern"):
        HipLoraConfig(layers_pattern="layers")


def test_every_choice_says_whose_it_is():
    ours = {"r", "lora_alpha", "lora_dropout", "principal_rank", "core", "budget_mode", "budget_lambda", "epsilon"}
    ours |= {"budget_power", "principal_rank_pattern", "epsilon_pattern", "init_weights", "save_factors"}
    for name in ours:
        text = HipLoraConfig.__dataclass_fields__[name].metadata["help"]
        assert "paper" in text or "our choice" in text, name


def test_round_trip(tmp_path):
    config = HipLoraConfig(r=3, principal_rank=0.5, target_modules=["q_proj"], epsilon_pattern={"q_proj": 0.1})
    config.save_pretrained(tmp_path)
    loaded = PeftConfig.from_pretrained(tmp_path)
    assert type(loaded) is HipLoraConfig
    assert loaded.peft_type is HipPeftType.HIPLORA
    assert loaded.to_dict() == config.to_dict()
