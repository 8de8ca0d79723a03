"""Merges scored by loss on a text of each task: shares of what each adapter learned, against transformers and PEFT."""

import math

import numpy as np
import pandas as pd
import peft
import pytest
import torch
from peft import LoraConfig
from transformers import AutoModelForCausalLM, AutoTokenizer

import hiplora
from hiplora.adapters import place, save_lora
from hiplora.effects import TaskLosses, TextLosses
from hiplora.errors import HiploraError
from hiplora.merging import ALL, doubts, fail_table

TOKENS = 700
WIDTH = 44
"""Tokens of a window: a sixteenth of what is read."""
ROUNDING = 2e-5
"""Of a mean loss of a few nats in float32, over two layers and a few hundred tokens."""


@pytest.fixture(scope="module")
def tasks(tmp_path_factory):
    """Return two text files of tasks, and one to be kept, 1400 bytes of lines each."""
    rng, folder = np.random.default_rng(1), tmp_path_factory.mktemp("tasks")
    for name, letters in (("abc", "abcdef "), ("uvw", "uvwxyz "), ("kept", "ghijkl ")):
        rows = ("".join(rng.choice(list(letters), 27)) for _ in range(50))
        (folder / f"{name}.txt").write_text("\n".join(rows) + "\n")
    return {name: folder / f"{name}.txt" for name in ("abc", "uvw", "kept")}


def windows(folder, file):
    ids = AutoTokenizer.from_pretrained(folder)(file.read_text().strip()).input_ids[:TOKENS]
    cut = [torch.tensor([ids[start : start + WIDTH]]) for start in range(0, len(ids), WIDTH)]
    return [window for window in cut if window.shape[1] > 1]


@pytest.fixture(scope="module")
def adapters(byte_bases, tasks, tmp_path_factory):
    """Return the folders of a LoRA for each of the two tasks, trained on its text for some steps."""
    base, folder = byte_bases["llama"], tmp_path_factory.mktemp("learned")
    for name in ("abc", "uvw"):
        torch.manual_seed(0)
        config = LoraConfig(r=2, lora_alpha=4, target_modules="all-linear")
        model = peft.get_peft_model(AutoModelForCausalLM.from_pretrained(base), config)
        optimizer = torch.optim.Adam([each for each in model.parameters() if each.requires_grad], lr=1e-2)
        rows = torch.cat([each for each in windows(base, tasks[name]) if each.shape[1] == WIDTH])
        for _ in range(10):
            optimizer.zero_grad()
            model(input_ids=rows, labels=rows).loss.backward()
            optimizer.step()
        model.save_pretrained(folder / name)
    return [folder / "abc", folder / "uvw"]


@pytest.fixture(scope="module")
def study(byte_bases, adapters):
    return hiplora.open(byte_bases["llama"], adapters, k=4)


@pytest.fixture(scope="module")
def scores(tasks):
    return TaskLosses({"abc": tasks["abc"], "uvw": tasks["uvw"]}, tasks["kept"], tokens=TOKENS)


@pytest.fixture(scope="module")
def table(study, scores):
    return study.merge_outcomes(["sum", "ties"], [1.0, 0.5], scores=scores)


def loss_of(base, file, adapter=None):
    """Return transformers' own mean loss, of the base or with PEFT's merged adapter."""
    model = AutoModelForCausalLM.from_pretrained(base)
    if adapter is not None:
        model = peft.PeftModel.from_pretrained(model, adapter).merge_and_unload()
    model.eval()
    found = [
        (float(model(input_ids=each, labels=each).loss.detach()) * (each.shape[1] - 1), each.shape[1] - 1)
        for each in windows(base, file)
    ]
    return sum(loss for loss, _ in found) / sum(count for _, count in found)


def test_a_merge_keeps_the_share_of_what_the_adapter_takes_off_the_bases_loss(
    study, table, tasks, byte_bases, adapters, tmp_path
):
    base = byte_bases["llama"]
    save_lora(place(study.base, study.merged("ties", [1.0, 0.5])), tmp_path / "ties")
    rows = table[table["outcome"] == "ties"].set_index("adapter")
    for name, adapter in zip(("abc", "uvw"), adapters, strict=True):
        before, merged, own = (loss_of(base, tasks[name], each) for each in (None, tmp_path / "ties", adapter))
        assert before - own > 0.1
        assert rows.loc[name, "score"] == pytest.approx(merged, abs=ROUNDING)
        # The numerator and the denominator are each off by two losses.
        assert rows.loc[name, "task_kept"] == pytest.approx(
            (before - merged) / (before - own), abs=4 * ROUNDING / (before - own)
        )
    assert rows.loc[ALL, "task_kept"] == pytest.approx(rows["task_kept"].iloc[:2].mean())


def test_of_the_base_it_keeps_the_ratio_of_the_perplexities(table, tasks, byte_bases, adapters):
    base = byte_bases["llama"]
    before, own = loss_of(base, tasks["kept"]), loss_of(base, tasks["kept"], adapters[0])
    together = table[table["adapter"] == ALL].set_index("outcome")
    assert together.loc["abc", "retention"] == pytest.approx(math.exp(before - own), rel=2 * ROUNDING)
    assert together.loc["base", "retention"] == 1
    assert together["base_kept_loss"].iloc[0] == pytest.approx(before, abs=ROUNDING)
    assert together["kept_text"].iloc[0] == "kept.txt, 700 tokens"


def test_the_base_has_nothing_of_a_task_and_the_adapter_all_of_it(table):
    own = table[(table["kind"] == "single") & (table["outcome"] == table["adapter"].astype(str))]
    assert (own[["task_kept", "task_kept_low", "task_kept_high"]] == 1).all(axis=None)
    apart = table[(table["kind"] == "base") & (table["adapter"] != ALL)]
    assert (apart[["task_kept", "task_kept_low", "task_kept_high"]] == 0).all(axis=None)


def test_intervals_hold_their_values(table):
    for column in ("task_kept", "retention"):
        assert (table[f"{column}_low"] <= table[column] + 1e-12).all()
        assert (table[column] <= table[f"{column}_high"] + 1e-12).all()
    assert (table["task_kept_high"] - table["task_kept_low"]).max() > 0


def test_a_task_that_its_adapter_did_not_learn_is_left_out_and_said(
    study, tasks, adapters, table, byte_bases, tmp_path
):
    save_lora(place(study.base, study.edit("uvw", pp=-1, pr=-1, rp=-1, rr=-1)), tmp_path / "unlearned")
    both = hiplora.open(byte_bases["llama"], [adapters[0], tmp_path / "unlearned"], k=4)
    scores = TaskLosses({"abc": tasks["abc"], "unlearned": tasks["uvw"]}, tasks["kept"], tokens=TOKENS)
    found = both.merge_outcomes(["sum"], scores=scores)
    rows = found[found["outcome"] == "sum"].set_index("adapter")
    assert math.isnan(rows.loc["unlearned", "task_kept"])
    assert rows.loc[ALL, "task_kept"] == rows.loc["abc", "task_kept"]
    assert doubts(found)[-1].startswith("unlearned by itself is no better on its task than the base")
    assert not any("by itself" in sentence for sentence in doubts(table))


def test_an_adapter_without_a_text_is_merged_and_not_asked_for(study, tasks):
    found = study.merge_outcomes(["sum"], scores=TaskLosses({"uvw": tasks["uvw"]}, tasks["kept"], tokens=TOKENS))
    assert found["adapter"].astype(str).unique().tolist() == ["uvw", ALL]


def test_balance_sets_and_merge_fail_are_scored_by_losses_too(study, scores, table):
    balance = study.merge_balance("abc", "uvw", scores=scores)
    half = balance[(balance["second_weight"] == 0.5) & (balance["adapter"] == ALL)]
    together = table[(table["outcome"] == "sum") & (table["adapter"] == ALL)]
    pd.testing.assert_series_equal(
        half[["task_kept", "retention"]].iloc[0], together[["task_kept", "retention"]].iloc[0], check_names=False
    )
    sets = study.merge_sets(["sum"], scores=scores)
    assert len(fail_table(sets)) == 51 + 21


def test_bad_input_is_one_sentence(study, tasks, tmp_path):
    with pytest.raises(HiploraError, match="task_texts is empty"):
        TaskLosses({})
    with pytest.raises(HiploraError, match="tokens must be at least 256, got 10"):
        TaskLosses({"abc": tasks["abc"]}, tokens=10)
    with pytest.raises(HiploraError, match=r"kept\.txt and kept\.txt are the same text"):
        study.merge_outcomes(["sum"], scores=TaskLosses({"abc": tasks["kept"]}, tasks["kept"]))
    with pytest.raises(HiploraError, match=r"absent\.txt is not a file"):
        study.merge_outcomes(["sum"], scores=TaskLosses({"abc": tmp_path / "absent.txt"}))
    with pytest.raises(HiploraError, match="TextLosses knows one task"):
        study.merge_outcomes(["sum"], scores=TextLosses(tasks["abc"], tasks["kept"]))
    with pytest.raises(HiploraError, match="has no exact scores: they belong to the demo world"):
        study.merge_outcomes(["sum"])
