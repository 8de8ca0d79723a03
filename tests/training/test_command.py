"""`hiplora train`: what it prints, and its one sentence for whatever cannot be trained."""

import json
import os
import signal
import subprocess
import sys

import pytest

from hiplora.cli import main
from hiplora.training import Run


@pytest.fixture
def run(capsys, tmp_path, monkeypatch):
    """Return `run(*arguments) -> (exit code, stdout, lines of stderr)`, with runs of the test's own."""
    monkeypatch.setenv("HIPLORA_RUNS", str(tmp_path / "runs"))

    def run(*arguments):
        code = main(["train", *map(str, arguments)])
        out, err = capsys.readouterr()
        return code, out, err.splitlines()

    return run


SHORT = ("--steps", 3, "--batch-size", 4, "--threads", 1)


def test_run_says_what_it_scored_and_can_be_analysed(run, tmp_path):
    code, out, err = run(*SHORT, "--task", "rot", "--method", "lora", "--out", tmp_path / "rot")
    assert code == 0
    assert out.startswith(f"{tmp_path / 'rot'}: task score ")
    assert "of the base kept; relative norm" in out
    assert "tokens per second" in err[-1]
    assert main(["analyze", "demo", str(tmp_path / "rot")]) == 0


def test_losses_are_said_of_a_file(run, tmp_path):
    lines = [{"prompt": f"rev {i}=", "completion": str(i)[::-1]} for i in range(100, 160)]
    (tmp_path / "mine.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (tmp_path / "probe.txt").write_text("copy abc=abc " * 20)
    data = ("--data", tmp_path / "mine.jsonl", "--probe", tmp_path / "probe.txt", "--max-length", 32)
    code, out, _ = run(*SHORT, *data)
    assert code == 0
    assert "mine-hiplora-s0: validation loss " in out
    assert ", probe loss " in out


def test_next_run_takes_its_budgets_from_the_prices_of_another(run, tmp_path):
    assert run(*SHORT, "--out", tmp_path / "first", "--learning-rate", 0.01)[0] == 0
    assert run(*SHORT, "--out", tmp_path / "second", "--reallocate", tmp_path / "first")[0] == 0
    pattern = Run(tmp_path / "second").config.epsilon_pattern
    assert len(pattern) == 28
    assert len(set(pattern.values())) > 1
    assert sum(e**2 for e in pattern.values()) == pytest.approx(28 * 0.05**2)


def test_interrupt_stops_with_a_checkpoint_and_resume_goes_on(run, tmp_path):
    process = subprocess.Popen(
        [
            sys.executable,
            "-m",
            "hiplora",
            "train",
            "--steps",
            "4000",
            "--batch-size",
            "4",
            "--out",
            str(tmp_path / "run"),
        ],
        stderr=subprocess.PIPE,
        text=True,
    )
    for line in process.stderr:
        if line.startswith("step 0"):
            break
    os.kill(process.pid, signal.SIGINT)
    said = process.communicate()[1]
    assert process.returncode == 130
    assert f"`hiplora train --resume {tmp_path / 'run'}` continues it" in said
    assert Run(tmp_path / "run").status.state == "stopped"
    assert Run(tmp_path / "run").checkpoints


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("--method", "milora"), "Unknown method 'milora': choose one of lora, "),
        (("--task", "prev"), "Unknown task 'prev'"),
        (("--r", 200), "r=200 is larger than model.layers.0.self_attn.q_proj (128 x 128): use at most 128."),
        (("--k", 200), "k=200 is larger than"),
        (("--data", "nowhere.txt"), "nowhere.txt is missing"),
        (("--data", "empty.txt"), "empty.txt is empty"),
        (("--data", "binary.txt"), "binary.txt"),
        (("--data", "broken.jsonl"), "line 2"),
        (("--base", "encoder", "--data", "good.txt"), "is not a causal language model"),
        (("--resume", "nowhere"), "nowhere is not a run folder"),
        (("--resume", "nowhere", "--steps", 3), "leave out the other options"),
        (("--out", "full"), "holds other files"),
        (("--reallocate", "nowhere"), "nowhere is not a run folder"),
    ],
)
def test_what_cannot_be_trained_is_one_sentence_and_leaves_no_folder(
    run, arguments, sentence, tmp_path, monkeypatch, write_base
):
    monkeypatch.chdir(tmp_path)
    write_base("encoder", {}, architectures=["BertModel"])
    (tmp_path / "good.txt").write_text("words " * 50)
    (tmp_path / "empty.txt").touch()
    (tmp_path / "binary.txt").write_bytes(b"\x00\x01\x02")
    (tmp_path / "broken.jsonl").write_text('{"text": "fine"}\n{"text": \n')
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.txt").write_text("mine")
    code, out, err = run(*arguments)
    assert (code, out) == (2, "")
    assert len(err) == 1
    assert sentence in err[0]
    assert not (tmp_path / "runs").exists()
