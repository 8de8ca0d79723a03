"""HiP-LoRA past one process: data-parallel training gives the numbers of one process."""

import json
import os
import subprocess
import sys
import textwrap

import pytest

SCRIPT = """
    import json, sys
    import torch
    from peft import get_peft_model
    from transformers import AutoModelForCausalLM, Trainer, TrainingArguments, set_seed

    from hiplora import HipLoraConfig
    from hiplora.tuner import HipLoraLayer

    torch.set_num_threads(1)
    base, out, batch, mode = sys.argv[1], sys.argv[2], int(sys.argv[3]), sys.argv[4]
    set_seed(0)
    model = get_peft_model(
        AutoModelForCausalLM.from_pretrained(base),
        HipLoraConfig(r=4, principal_rank=8, budget_mode=mode, budget_lambda=100, epsilon=0.01,
                      target_modules="all-linear", task_type="CAUSAL_LM"),
    )
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(0, 40, (40, 12), generator=generator)
    # Answers of different lengths: the mean is over tokens, not over processes.
    data = [{"input_ids": row, "labels": row.where(torch.arange(12) < 3 + i % 9, -100)} for i, row in enumerate(ids)]
    trainer = Trainer(
        model,
        TrainingArguments(
            out, max_steps=6, per_device_train_batch_size=batch, learning_rate=1e-2, logging_steps=1, use_cpu=True,
            report_to="none", save_strategy="no", train_sampling_strategy="sequential", disable_tqdm=True,
        ),
        train_dataset=data,
    )
    trainer.train()
    if trainer.is_world_process_zero():
        layers = [layer for layer in model.modules() if isinstance(layer, HipLoraLayer)]
        print("RESULT", json.dumps({
            "world": trainer.args.world_size,
            "loss": [entry["loss"] for entry in trainer.state.log_history if "loss" in entry],
            "tightness": [float(layer.tightness("default")) for layer in layers],
        }))
"""


def train(tmp_path, base, mode, batch, *launcher):
    script = tmp_path / "script.py"
    script.write_text(textwrap.dedent(SCRIPT))
    done = subprocess.run(
        [sys.executable, *launcher, str(script), str(base), str(tmp_path / "out"), str(batch), mode],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(next(line for line in done.stdout.splitlines() if line.startswith("RESULT"))[7:])


@pytest.mark.parametrize("mode", ["soft", "hard"])
def test_two_processes_under_accelerate_have_the_loss_of_one(tmp_path, llama_base, mode):
    # Without MPI, accelerate starts several processes by its launcher for GPUs; `use_cpu` in the script does the rest.
    launcher = ("-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2", "--num_machines", "1",
                "--mixed_precision", "no", "--dynamo_backend", "no", "--main_process_port", "0")  # fmt: skip
    one, two = train(tmp_path, llama_base, mode, 4), train(tmp_path, llama_base, mode, 2, *launcher)
    assert (one["world"], two["world"]) == (1, 2)
    # Another order of adding moves both by parts in ten million, which Adam's first steps may enlarge; a batch or a
    # penalty that is weighed wrongly moves them by more than a thousandth.
    assert two["loss"] == pytest.approx(one["loss"], rel=1e-4)
    assert two["tightness"] == pytest.approx(one["tightness"], rel=1e-3)
    assert max(one["tightness"]) > 0.1
