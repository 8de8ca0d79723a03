"""Each setting of HiP-LoRA has one home: whatever offers it takes default, help and check from there."""

import dataclasses

import pytest

from hiplora.adapters.hiplora_format import module_settings
from hiplora.errors import HiploraError
from hiplora.settings import HipLoraSettings
from hiplora.training import RunConfig
from hiplora.tuner import HipLoraConfig

FIELDS = {each.name: each for each in dataclasses.fields(HipLoraSettings)}


@pytest.mark.parametrize("owner", [HipLoraConfig, RunConfig])
def test_configs_offer_every_setting_with_its_default(owner):
    offered = {each.name: each for each in dataclasses.fields(owner)}
    for name, field in FIELDS.items():
        assert offered[name].default == field.default
        assert offered[name].metadata["help"]


def test_peft_config_has_the_help_of_the_settings():
    for name, field in FIELDS.items():
        assert HipLoraConfig.__dataclass_fields__[name].metadata["help"] == field.metadata["help"]


@pytest.mark.parametrize("name", FIELDS)
@pytest.mark.parametrize("value", ["many", -1, True, None])
def test_settings_out_of_range_are_refused_by_name(name, value):
    with pytest.raises(HiploraError, match=f"{name} must be"):
        HipLoraSettings(**{name: value})


def test_settings_of_one_module_have_the_patterns_applied():
    config = HipLoraConfig(epsilon=0.1, epsilon_pattern={"q_proj": 0.2}, rank_pattern={"q_proj": 3}, core="diagonal")
    one, other = module_settings(vars(config), ["layers.0.q_proj", "layers.0.v_proj"]).values()
    assert (one.epsilon, one.r, one.core) == (0.2, 3, "diagonal")
    assert (other.epsilon, other.r, other.core) == (0.1, FIELDS["r"].default, "diagonal")


def test_command_line_says_the_default_of_every_setting(capsys):
    from hiplora.cli import main

    with pytest.raises(SystemExit):
        main(["train", "--help"])
    text = " ".join(capsys.readouterr().out.split())
    for option, name in (("--lambda", "budget_lambda"), ("--epsilon", "epsilon"), ("--k", "principal_rank")):
        said = text.split(f"{option} {name.upper()}")[-1].split(" --")[0]
        assert f"(default: {FIELDS[name].default:g})" in said
