import json

import pytest

from hiplora.card import Card
from hiplora.demo import ADAPTERS, SKILLS
from hiplora.demo.base import Recipe
from hiplora.errors import HiploraError
from hiplora.training import RunConfig, demo_world
from hiplora.training.demo_world import build, build_adapter

TINY = {"steps": 2, "batch_size": 4, "learning_rate": 1e-3}
TINY_BUILD = {"base_recipe": Recipe(**TINY), "evaluation_size": 5, **TINY}


def layout(folder):
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    told = []
    out = tmp_path_factory.mktemp("demo") / "world"
    build(out, seed=3, progress=lambda what, done: told.append((what, done)), **TINY_BUILD)
    return out, told


def test_a_build_makes_the_complete_layout_and_nothing_else(built):
    out, _ = built
    files = layout(out)
    for name in ADAPTERS:
        parts = ("adapter_config.json", "adapter_model.safetensors", "card.json")
        assert {f"adapters/{name}/{part}" for part in parts} <= files
    base = {"config.json", "generation_config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"}
    inputs = {file for file in files if file.startswith("base/inputs/")}
    assert "base/inputs/inputs.json" in inputs
    assert files - inputs - {file for file in files if file.startswith("adapters/")} == {
        f"base/{f}" for f in (*base, "card.json")
    }
    # q, k and v of each of four layers share their input, and so do gate and up.
    assert len(inputs) == 1 + 4 * 4
    assert len(files - inputs) == 6 + 3 * len(ADAPTERS)
    assert list(out.parent.iterdir()) == [out]


def test_cards_state_how_each_part_was_made(built):
    out, _ = built
    for name in ADAPTERS:
        card = Card.read(out / "adapters" / name)
        assert (card.seed, card.steps, card.batch_size, card.learning_rate) == (3, 2, 4, 1e-3)
        assert list(card.skills) == list(SKILLS)
        assert str(out) not in (out / "adapters" / name / "adapter_config.json").read_text()
    assert Card.read(out / "base").steps == 2


def test_progress_names_each_training_and_reaches_its_end(built):
    _, told = built
    assert [what for what, done in told if done == 1.0] == ["base", *ADAPTERS]


def test_the_same_seed_gives_the_same_adapter_and_another_seed_another(built, tmp_path):
    out, _ = built

    def weights(seed, folder):
        config = RunConfig(base=str(out / "base"), method="lora", task="swap", seed=seed, evaluation_size=5, **TINY)
        build_adapter(folder, config, lambda *_: None)
        return (folder / "adapter_model.safetensors").read_bytes()

    assert weights(3, tmp_path / "same") == (out / "adapters/swap-lora/adapter_model.safetensors").read_bytes()
    assert weights(4, tmp_path / "other") != weights(3, tmp_path / "again")


def test_a_failed_build_leaves_the_earlier_demo_and_no_scratch(tmp_path, monkeypatch):
    earlier = tmp_path / "demo" / "base"
    earlier.mkdir(parents=True)
    (earlier / "card.json").write_text(json.dumps({"seed": 9}))

    def stop(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(demo_world, "build_adapter", stop)
    with pytest.raises(KeyboardInterrupt):
        build(tmp_path / "demo", **TINY_BUILD)
    assert layout(tmp_path) == {"demo/base/card.json"}
    assert Card.read(earlier) == Card(seed=9)


def test_a_folder_with_other_things_is_not_replaced(tmp_path):
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(HiploraError, match="not an earlier demo"):
        build(tmp_path, **TINY_BUILD)
    assert layout(tmp_path) == {"thesis.txt"}
