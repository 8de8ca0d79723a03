"""Watching a training of several processes: one of them writes, and the numbers are those of one process."""

import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest

from hiplora.training import Run, drift_history, step_table

ROOT = Path(__file__).parents[2]

# Without MPI, accelerate starts several processes by its launcher for GPUs; `cpu=True` in the script does the rest.
LAUNCHER = ("-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2", "--num_machines", "1",
            "--mixed_precision", "no", "--dynamo_backend", "no", "--main_process_port", "0")  # fmt: skip
SCRIPT = """
    import sys
    import torch
    from accelerate import Accelerator
    from peft import LoraConfig, get_peft_model
    from torch.distributed.fsdp import FullyShardedDataParallel, fully_shard
    from transformers import AutoModelForCausalLM, set_seed

    from hiplora import SpectralRecorder
    from hiplora.errors import HiploraError
    from hiplora.training import Run

    torch.set_num_threads(1)
    base, out, kind = sys.argv[1:]
    accelerator = Accelerator(cpu=True)
    set_seed(0)
    lora = LoraConfig(r=3, target_modules="all-linear", task_type="CAUSAL_LM")
    model = get_peft_model(AutoModelForCausalLM.from_pretrained(base), lora)
    # On a CPU accelerate itself does not shard: these are the calls that it makes on a GPU.
    if kind == "FSDP2":
        for layer in model.get_base_model().model.layers:
            fully_shard(layer)
        fully_shard(model)
    elif kind == "FSDP1":
        model = FullyShardedDataParallel(model, use_orig_params=True, device_id=torch.device("cpu"))
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2)
    if kind == "DDP":
        model, optimizer = accelerator.prepare(model, optimizer)
    ids = torch.randint(0, 40, (8, 12), generator=torch.Generator().manual_seed(1))
    mine = ids.chunk(accelerator.num_processes)[accelerator.process_index]
    try:
        watch = SpectralRecorder(model, steps=20, run=out, every=2, k=4)
    except HiploraError as error:
        print("REFUSED", error)
        raise SystemExit(0)
    for step in range(1, 7):
        loss = model(input_ids=mine, labels=mine).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        if kind != "one" and step == 5 and accelerator.is_main_process:
            Run(out).request_stop()
        watch.record(step, loss=loss)
        if watch.stop_requested:
            break
    watch.close()
    print("ENDED", step)
"""


def train(tmp_path, base, kind):
    """Return the run of two processes (of one for the kind `one`), and what they printed."""
    script = tmp_path / "script.py"
    script.write_text(textwrap.dedent(SCRIPT))
    done = subprocess.run(
        [sys.executable, *(() if kind == "one" else LAUNCHER), str(script), str(base), str(tmp_path / kind), kind],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return tmp_path / kind, [line for line in done.stdout.splitlines() if line.startswith(("REFUSED", "ENDED"))]


@pytest.fixture(scope="module")
def alone(tmp_path_factory, llama_base):
    """The run of one process on all of the data."""
    return Run(train(tmp_path_factory.mktemp("alone"), llama_base, "one")[0])


@pytest.mark.parametrize("kind", ["DDP", "FSDP2"])
def test_two_processes_write_one_run_with_the_numbers_of_one(tmp_path, llama_base, alone, kind):
    folder, printed = train(tmp_path, llama_base, kind)
    run = Run(folder)
    # Asked for at step 5, which is not measured, so that both processes hear of it at step 6.
    assert printed == ["ENDED 6", "ENDED 6"]
    assert (run.status.state, run.status.message) == ("stopped", "Stopped at step 6 of 20.")
    numbers = ["step", "pp", "enrichment", "relative_norm"]
    # Another order of adding gradients, which Adam's first steps enlarge.
    assert np.allclose(drift_history([run])[numbers], drift_history([alone])[numbers], rtol=1e-3)
    assert list(step_table([run])["step"]) == list(range(1, 7))
    modules = json.loads((run.path / "run.json").read_text())["modules"]
    assert modules == alone.facts["modules"]
    assert run.adapter is not None


def test_flat_shards_are_refused_in_all_processes(tmp_path, llama_base):
    folder, printed = train(tmp_path, llama_base, "FSDP1")
    assert len(printed) == 2
    assert all("FSDP1" in line and line.endswith("set fsdp_version to 2.") for line in printed)
    assert not folder.exists()


def test_the_example_runs(tmp_path):
    done = subprocess.run(
        [sys.executable, "examples/watch.py", "--run", "mine", "--steps", "20"],
        cwd=ROOT, env=os.environ | {"HIPLORA_RUNS": str(tmp_path)}, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    assert "of the training time" in done.stdout
    run = Run(tmp_path / "mine")
    assert run.status.state == "finished"
    losses = step_table([run])["loss"]
    assert losses.tail(3).mean() < losses.head(3).mean()
