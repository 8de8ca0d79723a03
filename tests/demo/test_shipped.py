"""What ships must be what its cards say."""

import json
import subprocess
import sys

import pytest
from safetensors import safe_open

from hiplora.card import Card
from hiplora.demo import ADAPTERS, SHIPPED_METHODS, SKILLS, TASKS, adapter_path, base_path, demo_root
from hiplora.demo.scoring import exact_match, score
from hiplora.demo.skills import ALL_FACTS
from hiplora.errors import HiploraError

SAMPLE = 60


def load(base, name):
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    # A fresh base: PEFT wraps the model's layers in place.
    fresh = AutoModelForCausalLM.from_pretrained(base_path(), local_files_only=True)
    return PeftModel.from_pretrained(fresh, adapter_path(name)).eval()


def test_the_base_knows_its_skills(base, tokenizer):
    card = Card.read(base_path())
    assert set(card.skills) == set(SKILLS)
    assert min(score for skill, score in card.skills.items() if skill != "add") > 0.99
    assert card.skills["add"] > 0.9
    assert card.more["all_facts"] > 0.99
    # Other prompts than the card's: what it says must hold for the skill, not for one sample.
    fresh = score(base, tokenizer, size=SAMPLE, seed=1)
    assert fresh == pytest.approx(card.skills, abs=0.05)
    assert exact_match(base, tokenizer, ALL_FACTS.table) == pytest.approx(card.more["all_facts"], abs=0.005)


def test_the_base_is_small_and_does_not_know_the_tasks(base, tokenizer):
    assert base.num_parameters() == Card.read(base_path()).more["parameters"] < 1_000_000
    assert sum(path.stat().st_size for path in base_path().iterdir()) < 8e6
    assert max(score(base, tokenizer, TASKS, size=SAMPLE).values()) < 0.3


@pytest.mark.parametrize("name", ADAPTERS)
def test_an_adapter_does_what_its_card_says(base, tokenizer, name):
    card = Card.read(adapter_path(name))
    assert f"{card.task}-{card.method}" == name
    assert card.task_score >= 0.95
    model = load(base, name)
    assert score(model, tokenizer, [card.task], size=SAMPLE, seed=1)[card.task] >= 0.95
    fresh = score(model, tokenizer, size=SAMPLE, seed=1)
    assert fresh == pytest.approx(card.skills, abs=0.2)
    assert sum(fresh.values()) / len(fresh) == pytest.approx(sum(card.skills.values()) / len(SKILLS), abs=0.04)


@pytest.mark.parametrize("name", ADAPTERS)
def test_an_adapter_folder_is_portable(name):
    folder = adapter_path(name)
    assert {path.name for path in folder.iterdir()} == {"adapter_config.json", "adapter_model.safetensors", "card.json"}
    config = json.loads((folder / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == "assets/demo/base"
    with safe_open(folder / "adapter_model.safetensors", "pt") as weights:
        adapted = {key.split("layers.")[1].rsplit("_proj", 1)[0] for key in weights.keys()}  # noqa: SIM118
    assert len(adapted) == 28


def test_methods_are_matched_in_trainable_parameters_and_training():
    for task in TASKS:
        cards = [Card.read(adapter_path(f"{task}-{method}")) for method in SHIPPED_METHODS]
        sizes = [card.trainable_parameters for card in cards]
        assert max(sizes) / min(sizes) < 1.05
        assert len({(card.seed, card.steps, card.batch_size, card.learning_rate) for card in cards}) == 1


def test_unknown_names_are_refused_in_a_sentence():
    with pytest.raises(HiploraError, match="swap-lora"):
        adapter_path("../base")


def test_naming_the_demo_needs_no_torch():
    code = """import sys, hiplora.demo
hiplora.demo.base_path()
print([name for name in ("torch", "transformers", "peft") if name in sys.modules])"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
    assert demo_root().is_dir()
