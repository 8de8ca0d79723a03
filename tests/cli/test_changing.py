"""Commands that change an adapter: edit, rebudget, repair, convert, export-lora."""

import re

import numpy as np
import pandas as pd
import pytest
from safetensors.numpy import load_file

from hiplora.adapters import read_adapter
from tests import numerics
from tests.cli.reading import tables

pytestmark = pytest.mark.usefixtures("cache_folder")


def test_export_writes_an_ordinary_lora_with_the_same_update(run, llama_base, make_adapter, tmp_path):
    from hiplora import HipLoraConfig

    config = HipLoraConfig(r=3, principal_rank=4, target_modules=["q_proj", "up_proj"])
    make_adapter(llama_base, tmp_path / "hip", config)
    code, out, _ = run("export-lora", tmp_path / "hip", tmp_path / "plain")
    assert (code, out) == (0, [f"{tmp_path / 'plain'} holds the same update as an ordinary LoRA adapter"])
    hip, plain = read_adapter(tmp_path / "hip"), read_adapter(tmp_path / "plain")
    assert plain.method == "LoRA"
    assert set(plain.modules) == set(hip.modules)
    for module in hip.modules:
        found, expected = plain.delta(module), hip.delta(module)
        # Two factors in float32.
        error = numerics.product_error(expected.L, expected.R, dtype="float32", steps=2, sums=False)
        np.testing.assert_allclose(found.dense(), expected.dense(), rtol=0, atol=error)


def test_export_knows_the_adapters_of_the_demo_by_name(run, tmp_path):
    assert run("export-lora", "swap-hiplora", tmp_path / "plain")[0] == 0
    assert set(read_adapter(tmp_path / "plain").modules) == set(read_adapter("swap-hiplora").modules)


def test_convert_names_what_it_wrote(run, tmp_path):
    import torch

    torch.save({"a": torch.zeros(1)}, tmp_path / "x.bin")
    assert run("convert", tmp_path / "x.bin") == (
        0,
        [f"{tmp_path / 'x.safetensors'} holds the tensors of {tmp_path / 'x.bin'}"],
        [],
    )


def test_edit_saves_a_lora_without_the_block(run, llama_base, lora_folder, tmp_path):
    code, out, _ = run("edit", lora_folder, "--base", llama_base, "--k", 4, "--pp", 0, "--out", tmp_path / "edited")
    assert code == 0
    assert re.search(
        r"edited holds .*, PP x 0 at k = 4 as a LoRA of rank \d+( to \d+)?: norm 0\.\d+ of what it was$", out[0]
    )
    assert read_adapter(tmp_path / "edited").method == "LoRA"


def test_rebudget_saves_a_lora_within_the_budget(run, llama_base, lora_folder, tmp_path):
    target = tmp_path / "within"
    code, out, _ = run("rebudget", lora_folder, "--base", llama_base, "--k", 4, "--epsilon", 0.01, "--out", target)
    assert code == 0
    assert "within budget at k = 4" in out[0]
    table = tables(run("analyze", llama_base, target, "--k", 4, "--epsilon", 0.01)[1])[0]
    assert table["Highest tightness"].tolist() == ["1"]


def test_edit_with_a_smaller_rank_says_what_it_loses(run, llama_base, lora_folder, tmp_path):
    arguments = ["edit", lora_folder, "--base", llama_base, "--k", 4, "--pp", 0, "--rank", 2, "--out", tmp_path / "cut"]
    _, out, _ = run(*arguments)
    assert "as a LoRA of rank 2:" in out[0]
    assert re.search(r"cutting the rank loses up to 0\.\d+ of a module's norm$", out[0])


def test_an_edit_in_the_geometry_of_the_inputs_is_another(run, tmp_path):

    for geometry in ("weights", "inputs"):
        code, _, _ = run(
            "edit", "swap-lora", "--base", "demo", "--pp", 0, "--geometry", geometry, "--out", tmp_path / geometry
        )
        assert code == 0
    one, other = (load_file(tmp_path / name / "adapter_model.safetensors") for name in ("weights", "inputs"))
    assert one.keys() == other.keys()
    assert any(one[key].shape != other[key].shape or not np.allclose(one[key], other[key]) for key in one)


def test_repair_says_the_best_of_each_way_and_saves_the_edit(run, tmp_path):
    code, out, _ = run("repair", "swap-lora", "--base", "demo", "--size", 8, "--out", tmp_path / "mended")
    assert code == 0
    assert [line.partition(",")[0] for line in out[:3]] == ["as trained", "blocks", "scaled"]
    assert re.search(
        r"^blocks, PP x .*: task [01]\.\d+, base skills kept [01]\.\d+ \([+-]\d+\.\d points beside scaled\)$", out[1]
    )
    assert "mended holds swap-lora, PP x " in out[-1]
    assert read_adapter(tmp_path / "mended").method == "LoRA"


def test_an_ablation_by_loss_says_each_edit_and_writes_the_table(run, tmp_path):
    task = tmp_path / "task.txt"
    task.write_text("swap abcd=badc\nswap efgh=fehg\n" * 40)
    options = ("--base", "demo", "--task-text", task, "--kept-text", tmp_path / "kept.txt", "--tokens", 300)
    (tmp_path / "kept.txt").write_text("copy abc=abc\nrev abc=cba\n" * 40)
    code, out, _ = run("ablate", "swap-lora", *options, "--out", tmp_path / "table.csv")
    assert code == 0
    assert len(out) == 10
    assert re.fullmatch(
        r"without PP, norm x 0\.\d+: loss on the task \d\.\d{4}, on what is kept \d\.\d{4} nats per token; "
        r"saves [+-]\d\.\d{4} beside its control \([+-]\d\.\d{4} to [+-]\d\.\d{4}\)",
        out[1],
    )
    assert pd.read_csv(tmp_path / "table.csv")["kept_loss"].notna().sum() == 9


@pytest.mark.parametrize("command", ["ablate", "repair"])
def test_texts_that_cannot_be_scored_are_one_line(run, tmp_path, command):
    out = ["--out", tmp_path / "mended"] if command == "repair" else []
    (tmp_path / "tiny.txt").write_text("abc")
    for options, reason in (
        (["--task-text", tmp_path / "absent.txt"], "absent.txt is not a file"),
        (["--task-text", tmp_path / "tiny.txt"], "tiny.txt has 4 tokens for this base: at least 256 are needed."),
        (["--kept-text", tmp_path / "tiny.txt"], "--kept-text belongs to --task-text FILE"),
        (["--task-text", tmp_path / "tiny.txt", "--tokens", 10], "tokens must be at least 256, got 10"),
    ):
        code, said, err = run(command, "swap-lora", "--base", "demo", *options, *out)
        assert (code, said) == (2, [])
        assert reason in err[-1]
    assert not (tmp_path / "mended").exists()
