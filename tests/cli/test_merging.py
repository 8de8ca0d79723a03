"""Commands that merge: merge, verify."""

import json
import re

import numpy as np
import pandas as pd
import pytest

from hiplora.adapters import read_adapter

pytestmark = pytest.mark.usefixtures("cache_folder")


def test_merge_saves_a_lora_with_its_report(run, llama_base, lora_folder, make_adapter, tmp_path):
    from peft import LoraConfig

    make_adapter(llama_base, tmp_path / "second", LoraConfig(r=2, target_modules=["q_proj"]), seed=1)
    adapters = [lora_folder, tmp_path / "second"]
    code, out, err = run("merge", llama_base, *adapters, "--weights", 1, -0.5, "--out", tmp_path / "merged")
    assert code == 0
    assert out == [
        f"{tmp_path / 'merged'} holds sum(plain-lora, -0.5 second) as a LoRA of rank 4 to 6, exact to float32"
    ]
    assert err[-1].startswith("14 maps of 2 adapters")
    assert json.loads((tmp_path / "merged" / "merge.json").read_text())["adapters"][1]["weight"] == -0.5
    module = "model.layers.0.self_attn.q_proj"
    first, second, merged = (read_adapter(path).delta(module) for path in (*adapters, tmp_path / "merged"))
    np.testing.assert_allclose(merged.dense(), (first - 0.5 * second).dense(), rtol=0, atol=1e-8)


def test_merge_says_how_the_adapters_meet_where_spectra_are_at_hand(
    run, llama_base, lora_folder, changed_copy, tmp_path
):
    def turned(tensors):
        return {key: -value if "lora_B" in key else value for key, value in tensors.items()}

    copy = changed_copy(lora_folder, "opposite", turned)
    arguments = ["merge", llama_base, lora_folder, copy, "--k", 4]
    _, out, err = run(*arguments, "--out", tmp_path / "blind")
    assert len(out) == 1
    assert any("the report leaves the conflicts out, which need 14 spectra" in line for line in err)
    assert json.loads((tmp_path / "blind" / "merge.json").read_text())["conflicts"] is None
    run("svd", llama_base, "--k", 4)
    _, out, err = run(*arguments, "--out", tmp_path / "seen")
    assert out[1].startswith("plain-lora and opposite: cosine -1.000 (independent: 0 ± ")
    assert "0 of 14 maps reinforce and 14 cancel" in out[1]
    assert len(json.loads((tmp_path / "seen" / "merge.json").read_text())["conflicts"]) == 14 * 5


def test_merge_of_adapters_without_a_common_map_says_so(run, llama_base, make_adapter, tmp_path):
    from peft import LoraConfig

    for name, module in (("first", "q_proj"), ("second", "v_proj")):
        make_adapter(llama_base, tmp_path / name, LoraConfig(r=2, target_modules=[module]))
    run("svd", llama_base, "--k", 4)
    code, out, _ = run("merge", llama_base, tmp_path / "first", tmp_path / "second", "--k", 4,
                       "--out", tmp_path / "merged")  # fmt: skip
    assert code == 0
    assert out[1] == "No two of the adapters change the same map."


@pytest.mark.usefixtures("cache_folder")
def test_merge_names_the_command_that_observes_inputs(run, tmp_path):
    (tmp_path / "text.txt").write_text("swap 1 2\n" * 300)
    arguments = ["--k", 4, "--geometry", "inputs", "--text", tmp_path / "text.txt", "--out", tmp_path / "merged"]
    code, _, err = run("merge", "demo", "swap-lora", "rot-lora", *arguments)
    assert code == 0
    assert any(f"`hiplora calibrate demo --text {tmp_path}" in line for line in err)
    assert not any("hiplora svd" in line for line in err)


def test_merge_says_what_a_cut_loses_and_what_is_too_large(run, llama_base, lora_folder, tmp_path):
    arguments = ["merge", llama_base, lora_folder, "--how", "ties"]
    code, out, _ = run(*arguments, "--out", tmp_path / "exact")
    assert code == 0
    assert out[0].endswith(
        "larger than the weights themselves: --rank cuts it, and --save-model writes a model of the base's size"
    )
    code, out, _ = run(*arguments, "--rank", 2, "--out", tmp_path / "cut")
    assert re.search(r"as a LoRA of rank 2: cutting the rank loses 0\.\d+ of the norm of the update$", out[0])


def test_a_merged_model_is_written_and_verified(run, llama_base, lora_folder, tmp_path):
    code, out, _ = run("merge", llama_base, lora_folder, "--how", "core", "--k", 4, "--epsilon", 0.01, "--save-model",
                       "--out", tmp_path / "merged")  # fmt: skip
    assert code == 0
    assert re.search(r"as a whole model: rounding to its dtype changes \d\.\de-0\d of the norm of the update$", out[0])
    code, out, _ = run("verify", llama_base, lora_folder, tmp_path / "merged", "--out", tmp_path / "table.csv")
    assert code == 1
    assert "14 of 14 changed maps are off" in out[0]
    assert len(pd.read_csv(tmp_path / "table.csv")) == 14
    run("merge", llama_base, lora_folder, "--save-model", "--out", tmp_path / "whole")
    code, out, _ = run("verify", llama_base, lora_folder, tmp_path / "whole")
    assert code == 0
    assert out[0].startswith("whole is tiny-llama with plain-lora: in 14 changed and 0 other maps no entry")


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["{base}", "{lora}", "{lora}"], "{lora} is given twice: name each adapter once"),
        (["{base}", "{lora}", "--weights", "1", "2"], "2 weights for 1 adapter: give one weight for each adapter."),
        (["{gpt2}", "{lora}"], "{lora} belongs to another base"),
        (["{base}", "{lora}", "--density", "0.5"], "sum keeps all entries, so it has no density"),
        (["{base}", "{lora}", "--rank", "2", "--save-model"], "A rank cuts a LoRA"),
        (["{base}", "{lora}", "--out", "{taken}"], "{taken} exists already: name a new folder to write."),
    ],
)
def test_what_cannot_be_merged_is_said_in_one_line(
    run, llama_base, gpt2_base, lora_folder, tmp_path, arguments, sentence
):
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "mine").touch()
    places = {"base": llama_base, "gpt2": gpt2_base, "lora": lora_folder, "taken": tmp_path / "taken"}
    given = [argument.format(**places) for argument in arguments]
    code, out, err = run("merge", "--out", tmp_path / "out", *given)
    assert code == 2
    assert not out
    (line,) = [line for line in err if line.startswith("hiplora: ")]
    assert sentence.format(**places) in line
    assert not (tmp_path / "out").exists()
