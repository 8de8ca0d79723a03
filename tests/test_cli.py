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

from hiplora.adapters import read_adapter
from hiplora.cli import main
from hiplora.cli.console import duration, size_of
from tests import numerics
from tests.waiting import LIMIT, until

pytestmark = pytest.mark.usefixtures("cache_folder")


@pytest.fixture
def run(capsys):
    """Return `run(*arguments) -> (exit code, lines of stdout, lines of stderr)`, in this process."""

    def run(*arguments):
        code = main([str(argument) for argument in arguments])
        out, err = capsys.readouterr()
        return code, out.splitlines(), err.splitlines()

    return run


def hiplora(*arguments, **environment):
    """Run the command as a user does."""
    return subprocess.run(
        [sys.executable, "-m", "hiplora", *map(str, arguments)],
        capture_output=True,
        text=True,
        env=os.environ | environment,
        timeout=LIMIT,
    )


def refuse(*_, **__):
    pytest.fail("worked first")


def test_help_loads_no_heavy_package_and_names_the_commands():
    done = hiplora("--help", PYTHONPROFILEIMPORTTIME="1")
    loaded = {line.rpartition("|")[2].strip().partition(".")[0] for line in done.stderr.splitlines()}
    assert "hiplora" in loaded
    assert not loaded & {"pandas", "peft", "plotly", "scipy", "streamlit", "torch", "transformers"}
    assert done.returncode == 0
    for command in ("analyze", "svd", "export-lora", "demo", "app", "cache"):
        assert command in done.stdout


def test_analyze_says_one_line_per_adapter_with_null_and_size_beside_the_share(run, llama_base, lora_folder):
    code, out, err = run("analyze", llama_base, lora_folder, "--k", 4)
    assert code == 0
    (line,) = out
    assert line.startswith("plain-lora (LoRA, 14 maps, k = 4): ")
    for part in ("times a random update's share", "95 % of random updates", "relative norm", "max tightness"):
        assert part in line
    assert err[-1].startswith("14 maps, spectra ")
    assert "(0 from cache)" in err[-1]
    assert "peak memory" in err[-1]


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
    assert out == [
        "idle (LoRA, 2 maps, k = 4): does nothing, its update is zero.",
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
    assert [line.split(" ")[0] for line in out] == ["late", "plain-lora"]
    assert "(LoRA, 1 maps," in out[0]


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
    assert table["intruders"].notna().all()
    assert os.listdir(path.parent) == [path.name]  # noqa: PTH208


def test_two_adapters_of_one_name_keep_their_own_rows(run, llama_base, lora_folder, changed_copy, tmp_path):
    (tmp_path / "run2").mkdir()
    other = changed_copy(lora_folder, "run2/plain-lora", lambda t: {key: 2 * array for key, array in t.items()})
    path = tmp_path / "layers.csv"
    code, out, _ = run("analyze", llama_base, lora_folder, other, "--k", 4, "--out", path)
    assert code == 0
    assert len(out) == 3
    assert pd.read_csv(path).groupby("adapter").size().tolist() == [14, 14]


def test_an_adapter_that_cannot_be_used_does_not_stop_the_others(run, llama_base, lora_folder, tmp_path):
    Bad.lfs_pointer(llama_base, lora_folder, tmp_path)
    Bad.nan_in_the_adapter(llama_base, lora_folder, tmp_path)
    bad, diverged = tmp_path / "pointer", tmp_path / "nan"
    code, out, err = run("analyze", llama_base, bad, "swap-lora", lora_folder, diverged, "--k", 4)
    assert code == 0
    assert [line.split(" ")[0] for line in out] == ["plain-lora"]
    says = ["swap-lora belongs to another base", f"{bad}/adapter_model.safetensors is a Git LFS pointer",
            f"{diverged}/adapter_model.safetensors: "]  # fmt: skip
    assert [line.startswith(f"hiplora: {start}") for line, start in zip(err, says)] == [True] * 3, err
    assert err[3].startswith("14 maps")


def test_names_reach_a_terminal_and_a_spreadsheet_as_text(run, llama_base, lora_folder, tmp_path):
    folder, path = tmp_path / "=cmd|'\x1b[31m", tmp_path / "layers.csv"
    shutil.copytree(lora_folder, folder)
    code, out, _ = run("analyze", llama_base, folder, "--k", 4, "--out", path)
    assert code == 0
    assert out[0].startswith("=cmd|'\\x1b[31m (LoRA, 14 maps")
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


class Bad:
    """Ways to hand in something that cannot be used: each returns the arguments and what the sentence must name."""

    @staticmethod
    def missing_base(base, adapter, work):
        return ["analyze", work / "absent", adapter], "absent"

    @staticmethod
    def missing_adapter(base, adapter, work):
        return ["analyze", base, work / "absent"], "absent"

    @staticmethod
    def lfs_pointer(base, adapter, work):
        folder = work / "pointer"
        folder.mkdir()
        (folder / "adapter_model.safetensors").write_text("version https://git-lfs.github.com/spec/v1\n")
        return ["analyze", base, folder], "pointer/adapter_model.safetensors is a Git LFS pointer"

    @staticmethod
    def weights_without_config(base, adapter, work):
        folder = work / "bare"
        folder.mkdir()
        (folder / "adapter_model.safetensors").write_bytes((adapter / "adapter_model.safetensors").read_bytes())
        return ["analyze", base, folder], "bare/adapter_model.safetensors has no adapter_config.json"

    @staticmethod
    def truncated_weights(base, adapter, work):
        folder = work / "cut"
        folder.mkdir()
        (folder / "adapter_config.json").write_bytes((adapter / "adapter_config.json").read_bytes())
        whole = (adapter / "adapter_model.safetensors").read_bytes()
        (folder / "adapter_model.safetensors").write_bytes(whole[:-100])
        return ["analyze", base, folder], "cut/adapter_model.safetensors is not a readable"

    @staticmethod
    def another_base(base, adapter, work):
        return ["analyze", "demo", adapter], "plain-lora belongs to another base"

    @staticmethod
    def nan_in_the_adapter(base, adapter, work):
        folder = work / "nan"
        folder.mkdir()
        (folder / "adapter_config.json").write_bytes((adapter / "adapter_config.json").read_bytes())
        from safetensors.numpy import load_file

        tensors = load_file(adapter / "adapter_model.safetensors")
        next(iter(tensors.values()))[:] = np.nan
        save_file(tensors, folder / "adapter_model.safetensors")
        return ["analyze", base, folder, "--k", 4], "nan/adapter_model.safetensors: "

    @staticmethod
    def nan_in_the_base(base, adapter, work):
        folder = work / "nan-base"
        folder.mkdir()
        (folder / "config.json").write_text('{"model_type": "llama"}')
        save_file({"a.weight": np.full((4, 4), np.nan)}, folder / "model.safetensors")
        return ["svd", folder], "nan-base/model.safetensors: a.weight holds NaN"

    @staticmethod
    def unwritable_cache(base, adapter, work):
        (work / "cache-is-a-file").touch()
        os.environ["HIPLORA_CACHE"] = str(work / "cache-is-a-file")
        return ["analyze", base, adapter, "--k", 4], "cache-is-a-file cannot be written"

    @staticmethod
    def unwritable_table(base, adapter, work):
        (work / "file").touch()
        return ["analyze", base, adapter, "--k", 4, "--out", work / "file" / "t.csv"], "t.csv cannot be written"

    @staticmethod
    def a_limit_that_is_no_number(base, adapter, work):
        os.environ["HIPLORA_CACHE_LIMIT"] = "much"
        return ["cache"], "HIPLORA_CACHE_LIMIT"

    @staticmethod
    def a_lora_to_export(base, adapter, work):
        return ["export-lora", adapter, work / "out"], "plain-lora is a LORA adapter"


@pytest.mark.parametrize("way", [name for name in vars(Bad) if not name.startswith("_")])
def test_what_cannot_be_used_is_said_in_one_line_that_names_it(
    run, llama_base, lora_folder, tmp_path, monkeypatch, way
):
    monkeypatch.setenv("HIPLORA_CACHE_LIMIT", str(10**9))  # so that a way may set it and it is restored
    arguments, says = getattr(Bad, way)(llama_base, lora_folder, tmp_path)
    code, out, err = run(*arguments)
    assert code == 2
    assert len(err) == 1, err
    assert err[0].startswith("hiplora: ")
    assert says in err[0]
    assert not any("Traceback" in line for line in out + err)


@pytest.mark.parametrize("way", ["missing_adapter", "unwritable_cache"])
def test_so_it_is_on_a_real_command_line(llama_base, lora_folder, tmp_path, monkeypatch, way):
    arguments, says = getattr(Bad, way)(llama_base, lora_folder, tmp_path)
    done = hiplora(*arguments)
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1
    assert says in done.stderr


@pytest.mark.parametrize("arguments", [
    ["analyze", "demo"], ["analyze", "demo", "x", "--k", "0"], ["analyze", "demo", "x", "--epsilon", "-1"],
    ["svd", "demo", "--unknown"], ["demo", "sell"], [],
])  # fmt: skip
def test_a_wrong_command_line_gives_its_usage(arguments, capsys):
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    assert stop.value.code == 2
    assert "usage: hiplora" in capsys.readouterr().err


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


def test_a_reader_that_has_gone_is_no_error(llama_base, lora_folder):
    command = subprocess.Popen(
        [sys.executable, "-m", "hiplora", "analyze", str(llama_base), str(lora_folder), "--k", "4"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    command.stdout.close()
    err = command.stderr.read()
    command.wait(LIMIT)
    assert "Traceback" not in err
    assert "Broken pipe" not in err


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


def test_demo_build_builds_where_it_is_told(run, monkeypatch, tmp_path):
    from hiplora.training import demo_world

    asked = {}

    def build(out, seed, progress):
        progress("base", 0.5)
        progress("swap-lora", 1.0)
        asked.update(out=out, seed=seed)

    monkeypatch.setattr(demo_world, "build", build)
    code, out, _ = run("demo", "build", "--out", tmp_path / "world", "--seed", 7)
    assert (code, out) == (0, [f"{tmp_path / 'world'} holds the demo world"])
    assert asked == {"out": tmp_path / "world", "seed": 7}


def test_the_app_is_served_from_its_own_folder_with_what_else_was_given(run, monkeypatch, tmp_path):
    from hiplora.paths import site_root

    calls = []
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HIPLORA_CACHE", "relative")
    monkeypatch.setattr(os, "execve", lambda program, command, env: calls.append((command, env, Path.cwd())))
    assert run("app", "--port", 8765, "--server.headless", "true")[0] == 0
    ((command, env, folder),) = calls
    assert command == [sys.executable, "-m", "streamlit", "run", "app.py", "--server.port", "8765",
                       "--server.headless", "true"]  # fmt: skip
    assert folder == site_root()
    assert env["HIPLORA_CACHE"] == str(tmp_path / "relative")


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


def test_an_unexpected_system_error_is_one_line_too(run, monkeypatch):
    def fail(*_):
        raise OSError(28, "No space left on device", "/somewhere")

    monkeypatch.setattr("hiplora.spectrum.default_cache", fail)
    code, _, err = run("cache")
    assert code == 2
    assert err == ["hiplora: [Errno 28] No space left on device: '/somewhere'"]


def test_durations_and_sizes_are_told_in_round_numbers():
    assert [duration(seconds) for seconds in (0.4, 59.4, 61, 3700)] == ["0 s", "59 s", "1 min 1 s", "61 min 40 s"]
    assert [size_of(count) for count in (0, 5e6, 2.34e9)] == ["0 MB", "5 MB", "2.3 GB"]


def test_intruders_that_were_asked_for_stand_in_the_summary(run):
    assert run("analyze", "demo", "swap-lora", "--intruders")[1][0].endswith("; 0 intruder dimensions")
    assert "intruder" not in run("analyze", "demo", "swap-lora")[1][0]


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
    assert run("analyze", llama_base, target, "--k", 4, "--epsilon", 0.01)[1][0].endswith("max tightness 1")


def test_edit_with_a_smaller_rank_says_what_it_loses(run, llama_base, lora_folder, tmp_path):
    arguments = ["edit", lora_folder, "--base", llama_base, "--k", 4, "--pp", 0, "--rank", 2, "--out", tmp_path / "cut"]
    _, out, _ = run(*arguments)
    assert "as a LoRA of rank 2:" in out[0]
    assert re.search(r"cutting the rank loses up to 0\.\d+ of a module's norm$", out[0])


def test_the_geometry_of_the_inputs_changes_what_is_measured(run):
    _, weights, _ = run("analyze", "demo", "swap-lora")
    code, inputs, _ = run("analyze", "demo", "swap-lora", "--geometry", "inputs")
    assert code == 0
    assert "relative norm 0.096" in weights[0]
    assert "relative effect on the inputs 0.0" in inputs[0]


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


def test_an_edit_in_the_geometry_of_the_inputs_is_another(run, tmp_path):
    from safetensors.numpy import load_file

    for geometry in ("weights", "inputs"):
        code, _, _ = run(
            "edit", "swap-lora", "--base", "demo", "--pp", 0, "--geometry", geometry, "--out", tmp_path / geometry
        )
        assert code == 0
    one, other = (load_file(tmp_path / name / "adapter_model.safetensors") for name in ("weights", "inputs"))
    assert one.keys() == other.keys()
    assert any(one[key].shape != other[key].shape or not np.allclose(one[key], other[key]) for key in one)


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


def test_repair_says_the_best_of_each_way_and_saves_the_edit(run, tmp_path):
    code, out, _ = run("repair", "swap-lora", "--base", "demo", "--size", 8, "--out", tmp_path / "mended")
    assert code == 0
    assert [line.partition(",")[0] for line in out[:3]] == ["as trained", "blocks", "scaled"]
    assert re.search(
        r"^blocks, PP x .*: task [01]\.\d+, base skills kept [01]\.\d+ \([+-]\d+\.\d points beside scaled\)$", out[1]
    )
    assert "mended holds swap-lora, PP x " in out[-1]
    assert read_adapter(tmp_path / "mended").method == "LoRA"


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


def test_parts_are_ablated_exactly_on_the_demo_world(run):
    code, out, _ = run("ablate", "swap-lora", "--base", "demo", "--by", "layer", "--size", 8)
    assert code == 0
    assert re.match(r"without layer 0, norm x 0\.\d+: task [01]\.\d+, base skills kept [01]\.\d+; ", out[1])
    assert re.match(r"tightness: rank correlation -?\d\.\d+ with what the removal gives back ", out[-1])


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
