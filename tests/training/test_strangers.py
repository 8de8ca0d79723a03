"""Bases and run folders as people bring them: what cannot be adapted is named, what is damaged gives one sentence."""

import json
import pickle
import shutil
from pathlib import Path

import pytest
import torch
import transformers

from hiplora.errors import HiploraError
from hiplora.sources import open_base
from hiplora.training import Run, RunConfig, layer_history, list_runs
from hiplora.training.checkpoints import require_resumable
from hiplora.training.events import Caveat, from_json
from hiplora.training.run import Checkpoint
from hiplora.training.train import check, train


class Bomb:
    """Touches a file when it is unpickled."""

    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return Path.touch, (self.marker,)


@pytest.fixture
def copy_of_run(finished_run, tmp_path):
    return Run(shutil.copytree(finished_run.path, tmp_path / "run"))


def mamba():
    return transformers.MambaForCausalLM(
        transformers.MambaConfig(
            vocab_size=64, hidden_size=32, num_hidden_layers=1, state_size=8, time_step_rank=4, intermediate_size=64
        )
    )


def moe():
    return transformers.Qwen2MoeForCausalLM(
        transformers.Qwen2MoeConfig(
            vocab_size=64,
            hidden_size=32,
            intermediate_size=32,
            moe_intermediate_size=16,
            num_hidden_layers=1,
            shared_expert_intermediate_size=32,
            num_attention_heads=2,
            num_key_value_heads=2,
            num_experts=4,
            num_experts_per_tok=2,
        )
    )


@pytest.mark.parametrize(
    ("make", "named", "adapted"),
    [
        (mamba, ["mixer.dt_proj", "mixer.out_proj"], {"mixer.in_proj", "mixer.x_proj"}),
        (moe, ["mlp.gate", "mlp.shared_expert_gate"], {"self_attn.q_proj", "mlp.shared_expert.down_proj"}),
    ],
)
@pytest.mark.parametrize("method", ["lora", "hiplora"])
def test_maps_that_cannot_be_adapted_are_named_and_the_others_trained(tmp_path, make, named, adapted, method):
    torch.manual_seed(0)
    base = tmp_path / "base"
    make().save_pretrained(base)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(open_base("demo").path / name, base)
    (tmp_path / "data.txt").write_text("one two three four five six seven\n" * 20)
    settings = {
        "base": str(base),
        "data": str(tmp_path / "data.txt"),
        "method": method,
        "principal_rank": 8,
        "steps": 1,
    }
    config = RunConfig(**settings, r=8, batch_size=2, max_length=16, threads=1, core="diagonal", device="cpu")
    check(open_base(str(base)), config)
    notes = []
    run = train(Run.create(tmp_path / "run", config), report=notes.append)
    text = " ".join(note.text for note in notes if isinstance(note, Caveat))
    assert all(f"{name} (1 map" in text for name in named)
    measured = set(layer_history([run])["kind"])
    assert adapted <= measured
    assert not measured & set(named)


def test_unknown_architecture_is_refused_before_a_run_is_made(tmp_path):
    base = shutil.copytree(open_base("demo").path, tmp_path / "base")
    config = json.loads((base / "config.json").read_text())
    (base / "config.json").write_text(json.dumps(config | {"model_type": "strange"}))
    (tmp_path / "data.txt").write_text("one two three " * 40)
    with pytest.raises(HiploraError, match="cannot be loaded as a causal language model"):
        check(open_base(str(base)), RunConfig(base=str(base), data=str(tmp_path / "data.txt")))


@pytest.mark.parametrize("name", ["optimizer.pt", "scheduler.pt", "rng_state.pth"])
@pytest.mark.parametrize("zipped", [True, False])
def test_pickle_in_a_checkpoint_is_never_run(copy_of_run, tmp_path, name, zipped):
    checkpoint = copy_of_run.checkpoints[-1]
    bomb = Bomb(tmp_path / "touched")
    if zipped:
        torch.save(bomb, checkpoint.path / name)
    else:
        (checkpoint.path / name).write_bytes(pickle.dumps(bomb))
    with pytest.raises(HiploraError, match=f"{name} is missing or damaged"):
        require_resumable(checkpoint, has_prices=True)
    assert not bomb.marker.exists()


@pytest.mark.parametrize("name", ["scaler.pt", "pytorch_model.bin", "rng_state_0.pth", "model.safetensors"])
def test_file_that_the_trainer_would_load_besides_is_refused(copy_of_run, name):
    checkpoint = copy_of_run.checkpoints[-1]
    (checkpoint.path / name).write_bytes(b"")
    with pytest.raises(HiploraError, match=f"{name} does not belong to a run's checkpoint"):
        require_resumable(checkpoint, has_prices=True)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("trainer_state.json", {}),
        ("trainer_state.json", {"global_step": "8"}),
        ("trainer_state.json", {"strange": 1}),
        ("shadow_prices.json", {}),
        ("shadow_prices.json", {"samples": "1", "sums": []}),
        ("shadow_prices.json", {"samples": 1, "sums": [[0, "default", "module"]]}),
    ],
)
def test_state_of_another_form_is_refused(copy_of_run, name, content):
    checkpoint = copy_of_run.checkpoints[-1]
    (checkpoint.path / name).write_text(json.dumps(content))
    with pytest.raises(HiploraError, match=f"{name} is missing or damaged"):
        require_resumable(checkpoint, has_prices=True)


def test_folder_that_is_not_a_checkpoint_is_passed_over(copy_of_run):
    for name in ("checkpoint-²", "checkpoint-" + "9" * 200, "checkpoint-x"):
        folder = copy_of_run.path / "checkpoints" / name
        folder.mkdir()
        (folder / "complete").touch()
    assert [each.step for each in copy_of_run.checkpoints] == [3, 6, 8]
    assert all(isinstance(each, Checkpoint) for each in copy_of_run.checkpoints)


@pytest.mark.parametrize(
    "event",
    [
        {"event": "scores", "step": 1, "retention": 1.0, "skills": {}},
        {"event": "scores", "step": 1, "task_score": 0.5, "retention": 1.0, "skills": {"a": "b"}},
        {"event": "scores", "step": 1, "task_score": 10**400, "retention": 1.0, "skills": {}},
        {"event": "scores", "step": True, "task_score": 1.0, "retention": 1.0, "skills": {}},
    ],
)
def test_event_of_another_form_is_not_an_event(event):
    with pytest.raises(ValueError, match="not an event"):
        from_json(event)


def test_measurement_of_another_number_of_modules_is_refused(copy_of_run):
    copy_of_run.record_facts(modules=["model.layers.0.self_attn.q_proj"])
    with pytest.raises(HiploraError, match=r"events.jsonl measures another number of modules at step 0"):
        layer_history([copy_of_run])


@pytest.mark.parametrize(
    "content", ["[]", "{", '{"config": {"base": 3}}', '{"config": {"base": "demo", "steps": 1e999}}']
)
def test_damaged_run_does_not_hide_the_one_beside_it(copy_of_run, content):
    (copy_of_run.path.parent / "bad").mkdir()
    (copy_of_run.path.parent / "bad" / "run.json").write_text(content)
    assert [run.name for run in list_runs(copy_of_run.path.parent)] == ["run"]
