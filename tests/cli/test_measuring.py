"""Commands that measure: analyze, ledger, inspect, svd, calibrate, ablate, cache."""

import errno
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from safetensors.numpy import save_file

import hiplora
from tests.cli.commands import refuse
from tests.cli.reading import tables
from tests.waiting import LIMIT, until

pytestmark = pytest.mark.usefixtures("cache_folder")


def test_analyze_shows_the_band_and_the_size_beside_the_share(run, llama_base, lora_folder):
    code, out, err = run("analyze", llama_base, lora_folder, "--k", 4)
    assert code == 0
    row = tables(out)[0].iloc[0]
    found = hiplora.open(llama_base, [lora_folder], k=4).summary().iloc[0]
    assert (row["Adapter"], row["Method"]) == ("plain-lora", "LoRA")
    assert float(row["Times chance"]) == pytest.approx(found["enrichment"], abs=0.005)
    low, high = (float(end) for end in row["95 % of random"].split(" to "))
    assert low == pytest.approx(found["pp_null_low"] / found["pp_null"], abs=0.005)
    assert high == pytest.approx(found["pp_null_high"] / found["pp_null"], abs=0.005)
    assert float(row["Norm"]) == pytest.approx(found["relative_norm"], rel=0.005)
    assert float(row["Highest tightness"]) == pytest.approx(found["max_tightness"], rel=0.005)
    assert row["Over budget"] == f"{found['over_budget']} of 14"
    assert "plain-lora: It is spread out like a random update" in "\n".join(out)
    assert err[-1].startswith("14 maps, spectra ")
    assert "(0 from cache)" in err[-1]
    assert "peak memory" in err[-1]


def test_analyze_lists_the_modules_with_the_highest_tightness(run):
    layers = hiplora.open("demo", ["swap-lora", "swap-hiplora"]).layers()
    expected = [
        module
        for name in ("swap-lora", "swap-hiplora")
        for module in layers[layers["adapter"] == name].nlargest(2, "tightness")["module"]
    ]
    _, out, _ = run("analyze", "demo", "swap-lora", "swap-hiplora", "--worst", 2)
    assert tables(out)[1]["Module"].tolist() == expected
    assert len(tables(run("analyze", "demo", "swap-lora", "--worst", 0)[1])) == 1


def test_report_writes_one_page_and_says_where(run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, out, err = run("report", "demo", "swap-lora", "nosuch", "--out", "here/report.html")
    assert code == 0
    assert out == ["here/report.html holds the report on swap-lora (1.9 MB): open it in a browser"]
    assert "nosuch is not a folder" in err[0]
    page = Path("here/report.html").read_text(encoding="utf-8")
    assert page == hiplora.open("demo", ["swap-lora", "nosuch"], strict=False).to_html()


def test_a_report_in_place_of_a_folder_is_said_before_any_work(run, tmp_path):
    code, out, err = run("report", "absent", "absent", "--out", tmp_path)
    assert (code, out) == (2, [])
    assert err == [f"hiplora: {tmp_path} is a folder: name a file in it."]


def test_the_second_run_takes_its_spectra_from_the_cache(run, llama_base, lora_folder):
    first = run("analyze", llama_base, lora_folder, "--k", 4)
    second = run("analyze", llama_base, lora_folder, "--k", 4)
    assert second[1] == first[1]
    assert "(14 from cache)" in second[2][-1]


def test_analyze_tells_what_a_reader_must_know(run, llama_base, make_adapter, tmp_path):
    from peft import LoraConfig

    make_adapter(llama_base, tmp_path / "idle", LoraConfig(r=2, target_modules=["q_proj"]), zero=True)
    code, out, _ = run("analyze", llama_base, tmp_path / "idle", "--k", 4)
    assert code == 0
    row = tables(out)[0].iloc[0]
    assert (row["Times chance"], row["Norm"]) == ("–", "0")
    assert out[-2:] == [
        "idle: It changes nothing. Check that the right file was saved.",
        "  2 of its modules do nothing: their update is zero.",
    ]


def test_ledger_says_what_each_adapter_leaves_to_the_next(run, tmp_path):
    code, out, _ = run("ledger", "demo", "swap-lora", "rot-lora", "--epsilon", 0.05, "--out", tmp_path / "ledger.csv")
    assert code == 0
    assert out[0].startswith("swap-lora: spends ")
    assert out[1].startswith("on top: rot-lora: spends ")
    assert "over it; least is left in model.layers." in out[1]
    assert len(pd.read_csv(tmp_path / "ledger.csv")) == 2 * 28


def test_adapters_keep_the_order_they_were_given_in(run, llama_base, lora_folder, make_adapter, tmp_path):
    from peft import LoraConfig

    make_adapter(llama_base, tmp_path / "late", LoraConfig(r=2, target_modules=["down_proj"], layers_to_transform=[1]))
    _, out, _ = run("analyze", llama_base, tmp_path / "late", lora_folder, "--k", 4)
    assert tables(out)[0]["Adapter"].tolist() == ["late", "plain-lora"]
    assert tables(out)[0]["Over budget"].iloc[0].endswith(" of 1")


@pytest.mark.parametrize("suffix", ["csv", "json", "parquet"])
def test_the_layer_table_is_written_as_the_suffix_says(run, llama_base, lora_folder, tmp_path, suffix):
    path = tmp_path / "tables" / f"layers.{suffix}"
    code, out, _ = run("analyze", llama_base, lora_folder, "--k", 4, "--out", path, "--intruders", "--epsilon", 0.01)
    assert code == 0
    assert out[-1] == f"14 rows in {path}"
    table = getattr(pd, f"read_{suffix}")(path)
    assert len(table) == 14
    assert set(table["adapter"]) == {"plain-lora"}
    assert table["module"].iloc[1] == "model.layers.0.self_attn.k_proj"
    assert (table["epsilon"] == 0.01).all()
    assert table[["intruders", "intruder_scale"]].notna().all(axis=None)
    assert os.listdir(path.parent) == [path.name]  # noqa: PTH208


def test_two_adapters_of_one_name_keep_their_own_rows(run, llama_base, lora_folder, changed_copy, tmp_path):
    (tmp_path / "run2").mkdir()
    other = changed_copy(lora_folder, "run2/plain-lora", lambda t: {key: 2 * array for key, array in t.items()})
    path = tmp_path / "layers.csv"
    code, out, _ = run("analyze", llama_base, lora_folder, other, "--k", 4, "--out", path)
    assert code == 0
    assert tables(out)[0]["Adapter"].nunique() == 2
    assert pd.read_csv(path).groupby("adapter").size().tolist() == [14, 14]


def test_names_reach_a_terminal_and_a_spreadsheet_as_text(run, llama_base, lora_folder, tmp_path):
    folder, path = tmp_path / "=cmd|'\x1b[31m", tmp_path / "layers.csv"
    shutil.copytree(lora_folder, folder)
    code, out, _ = run("analyze", llama_base, folder, "--k", 4, "--out", path)
    assert code == 0
    assert "\x1b" not in "\n".join(out)
    assert tables(out)[0]["Adapter"].tolist() == ["=cmd|'\\x1b[31m"]
    assert set(pd.read_csv(path)["adapter"]) == {"'=cmd|'\\x1b[31m"}
    shutil.rmtree(folder)
    _, _, err = run("analyze", llama_base, folder, "--k", 4)
    assert "\x1b" not in err[0]


@pytest.mark.parametrize("name", ["layers.xlsx", "layers"])
def test_an_unknown_suffix_is_said_before_any_work(run, monkeypatch, tmp_path, name):
    monkeypatch.setattr("hiplora.sources.open_base", refuse)
    code, out, err = run("analyze", "demo", "anything", "--out", tmp_path / name)
    assert (code, out) == (2, [])
    assert err == [f"hiplora: {tmp_path / name} has an unknown suffix: use one of .csv, .json, .parquet."]


def test_a_folder_in_place_of_the_table_is_said_before_any_work(run, monkeypatch, tmp_path):
    monkeypatch.setattr("hiplora.sources.open_base", refuse)
    (tmp_path / "layers.csv").mkdir()
    code, _, err = run("analyze", "demo", "anything", "--out", tmp_path / "layers.csv")
    assert (code, len(err)) == (2, 1)


def test_svd_fills_the_cache_and_says_where_and_how_much(run, llama_base, cache_folder):
    code, out, err = run("svd", llama_base)
    assert code == 0
    assert out[0].startswith(f"14 maps of tiny-llama: 0 from cache, 14 computed; {cache_folder} takes ")
    assert "peak memory" in err[-1]
    assert run("svd", llama_base, "--full")[1][0].startswith("14 maps of tiny-llama: 14 from cache, 0 computed")


@pytest.mark.skipif(sys.platform == "win32", reason="needs a pseudo-terminal")
def test_on_a_terminal_the_time_left_is_shown(llama_base):
    import fcntl
    import pty
    import struct
    import termios

    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 100, 0, 0))
    subprocess.run([sys.executable, "-m", "hiplora", "svd", str(llama_base)], stderr=theirs, check=True, timeout=LIMIT)
    shown = os.read(ours, 10_000).decode()
    assert "spectra   0%|" in shown
    assert "| 14 of 14 maps, 0 s left" in shown


def test_a_damaged_entry_is_told_in_one_line_and_made_again(run, llama_base, lora_folder, cache_folder):
    _, first, _ = run("analyze", llama_base, lora_folder, "--k", 4)
    entry = next(iter(cache_folder.glob("spectra/*/*.safetensors")))
    whole = entry.read_bytes()
    entry.write_bytes(whole[:-1])
    code, out, err = run("analyze", llama_base, lora_folder, "--k", 4)
    assert (code, out) == (0, first)
    assert len(err) == 2
    assert err[0].startswith(f"hiplora: {entry} is damaged")
    assert entry.read_bytes() == whole


def test_ctrl_c_keeps_what_is_done_and_says_how_to_go_on(tmp_path, rng):
    folder, cache = tmp_path / "model", tmp_path / "cache"
    folder.mkdir()
    (folder / "config.json").write_text('{"model_type": "llama"}')
    weights = {f"model.layers.{i}.mlp.up_proj.weight": rng.normal(size=(500, 500)) for i in range(60)}
    save_file({name: array.astype(np.float32) for name, array in weights.items()}, folder / "model.safetensors")
    command = subprocess.Popen(
        [sys.executable, "-m", "hiplora", "svd", str(folder)],
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"HIPLORA_CACHE": str(cache)},
    )
    until(lambda: len(list(cache.glob("spectra/*/*.safetensors"))) >= 2, command)
    command.send_signal(signal.SIGINT)
    _, err = command.communicate(timeout=LIMIT)
    kept = len(list(cache.glob("spectra/*/*.safetensors")))
    assert command.returncode == 130
    assert 2 <= kept < 60
    assert err.splitlines()[-1].startswith(f"hiplora: stopped; {kept} of 60 spectra are done ")
    assert err.splitlines()[-1].endswith(f"kept in {cache}: run the same command again to continue.")
    assert "Traceback" not in err


def test_the_cache_is_shown_and_cleared(run, llama_base, cache_folder):
    run("svd", llama_base)
    assert run("cache")[1][0].startswith(f"{cache_folder}: ")
    assert run("cache", "--clear")[1][0].endswith("of spectra and inputs removed")
    assert not list(cache_folder.glob("spectra/*/*"))


def test_spectra_that_cannot_be_removed_are_counted(run, llama_base, cache_folder, monkeypatch):
    run("svd", llama_base)

    def refuse(path, missing_ok=False):
        raise OSError(errno.EROFS, "Read-only file system", str(path))

    monkeypatch.setattr(Path, "unlink", refuse)
    monkeypatch.setattr(shutil, "rmtree", lambda *_, **__: None)
    code, out, err = run("cache", "--clear")
    assert (code, out) == (2, [])
    assert err[0].startswith(f"hiplora: 14 of 14 entries in {cache_folder} cannot be removed (Read-only file system): ")


def test_intruders_that_were_asked_for_stand_in_the_summary(run):
    assert tables(run("analyze", "demo", "swap-lora", "--intruders")[1])[0]["Intruders"].tolist() == ["0"]
    assert "Intruders" not in tables(run("analyze", "demo", "swap-lora")[1])[0]


def test_inspect_says_what_was_read(run, llama_base, lora_folder):
    code, out, _ = run("inspect", lora_folder, "--base", llama_base)
    assert code == 0
    assert out[0].startswith(f"{lora_folder.name} (LoRA): 14 of 14 modules fit {llama_base.name}; 28 of 28 tensors")


def test_inspect_of_another_base_is_refused_with_the_reason(run, gpt2_base, lora_folder):
    code, out, _ = run("inspect", lora_folder, "--base", gpt2_base)
    assert code == 2
    assert "belongs to another base" in out[-1]


def test_inspect_as_json_is_for_programs(run, lora_folder):
    code, out, _ = run("inspect", lora_folder, "--json")
    assert code == 0
    assert json.loads("\n".join(out))["method"] == "LoRA"


def test_the_geometry_of_the_inputs_changes_what_is_measured(run):
    _, weights, _ = run("analyze", "demo", "swap-lora")
    code, inputs, _ = run("analyze", "demo", "swap-lora", "--geometry", "inputs")
    assert code == 0
    assert tables(weights)[0]["Norm"].tolist() == ["0.0957"]
    assert tables(inputs)[0]["Effect on inputs"].iloc[0].startswith("0.0")


def test_inputs_are_observed_on_a_text_once(run, cache_folder, tmp_path):
    text = tmp_path / "lines.txt"
    text.write_text("copy abc=abc\nrev abc=cba\n" * 40)
    code, out, err = run("calibrate", "demo", "--text", text, "--tokens", 500)
    assert code == 0
    assert re.fullmatch(
        rf"28 maps of demo with 16 inputs on lines\.txt, 500 tokens: kept in {cache_folder}/inputs/\w+ \(\d MB\)",
        out[0],
    )
    assert err[-1].startswith("inputs ")
    assert ": found in " in run("calibrate", "demo", "--text", text, "--tokens", 500)[1][0]
    assert run("cache", "--clear")[1][0].endswith("of spectra and inputs removed")
    assert not list(cache_folder.glob("inputs/*"))


@pytest.mark.parametrize("command", ["calibrate", "analyze"])
def test_a_text_that_cannot_be_used_is_one_line(run, tmp_path, command):
    (tmp_path / "tiny.txt").write_text("abc")
    arguments = ["demo"] if command == "calibrate" else ["demo", "swap-lora", "--geometry", "inputs"]
    code, out, err = run(command, *arguments, "--text", tmp_path / "tiny.txt")
    assert (code, out) == (2, [])
    assert "tiny.txt has 4 tokens for this base: at least 256 are needed." in err[-1]
    assert run(command, *arguments, "--text", tmp_path / "absent.txt")[0] == 2
    assert run(command, *arguments, "--tokens", 300)[2][-1].startswith("hiplora: demo brings its own inputs along")
    if command == "analyze":
        assert run("analyze", "demo", "swap-lora", "--text", tmp_path / "tiny.txt")[0] == 2
        assert run("analyze", "demo", "swap-lora", "--tokens", 300)[0] == 2


def test_parts_are_ablated_exactly_on_the_demo_world(run):
    code, out, _ = run("ablate", "swap-lora", "--base", "demo", "--by", "layer", "--size", 8)
    assert code == 0
    assert re.match(r"without layer 0, norm x 0\.\d+: task [01]\.\d+, base skills kept [01]\.\d+; ", out[1])
    assert re.match(r"tightness: rank correlation -?\d\.\d+ with what the removal gives back ", out[-1])
