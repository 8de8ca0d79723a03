"""What all commands share, and those that start something: bad input in one line, usage, demo, app."""

import argparse
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from hiplora.cli import main
from hiplora.cli.console import duration, size_of
from hiplora.cli.examples import EXAMPLES
from hiplora.cli.parser import build_parser
from tests.cli.commands import hiplora
from tests.cli.reading import tables
from tests.waiting import LIMIT

pytestmark = pytest.mark.usefixtures("cache_folder")


def test_help_loads_no_heavy_package_and_names_the_commands():
    done = hiplora("--help", PYTHONPROFILEIMPORTTIME="1")
    loaded = {line.rpartition("|")[2].strip().partition(".")[0] for line in done.stderr.splitlines()}
    assert "hiplora" in loaded
    assert not loaded & {"pandas", "peft", "plotly", "scipy", "streamlit", "torch", "transformers"}
    assert done.returncode == 0
    for command in ("analyze", "svd", "export-lora", "demo", "app", "cache"):
        assert command in done.stdout


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


def test_an_adapter_that_cannot_be_used_does_not_stop_the_others(run, llama_base, lora_folder, tmp_path):
    Bad.lfs_pointer(llama_base, lora_folder, tmp_path)
    Bad.nan_in_the_adapter(llama_base, lora_folder, tmp_path)
    bad, diverged = tmp_path / "pointer", tmp_path / "nan"
    code, out, err = run("analyze", llama_base, bad, "swap-lora", lora_folder, diverged, "--k", 4)
    assert code == 0
    assert tables(out)[0]["Adapter"].tolist() == ["plain-lora"]
    says = ["swap-lora belongs to another base", f"{bad}/adapter_model.safetensors is a Git LFS pointer",
            f"{diverged}/adapter_model.safetensors: "]  # fmt: skip
    assert [line.startswith(f"hiplora: {start}") for line, start in zip(err, says)] == [True] * 3, err
    assert err[3].startswith("14 maps")


@pytest.mark.parametrize("way", ["missing_adapter", "unwritable_cache"])
def test_so_it_is_on_a_real_command_line(llama_base, lora_folder, tmp_path, monkeypatch, way):
    arguments, says = getattr(Bad, way)(llama_base, lora_folder, tmp_path)
    done = hiplora(*arguments)
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1
    assert says in done.stderr


@pytest.mark.parametrize("arguments", [
    ["analyze", "demo"], ["analyze", "demo", "x", "--k", "0"], ["analyze", "demo", "x", "--epsilon", "-1"],
    ["svd", "demo", "--unknown"], ["demo", "sell"], ["zzz"], ["--unknown"],
])  # fmt: skip
def test_a_wrong_command_line_gives_its_usage(arguments, capsys):
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    assert stop.value.code == 2
    assert "usage: hiplora" in capsys.readouterr().err


def test_without_a_command_the_help_is_shown(run):
    code, out, err = run()
    assert (code, out) == (2, [])
    assert err[0].startswith("usage: hiplora")
    assert any(line.split()[:1] == ["analyze"] for line in err)


def test_a_mistyped_command_is_answered_with_the_nearest(capsys):
    with pytest.raises(SystemExit) as stop:
        main(["analize", "demo", "swap-lora"])
    assert stop.value.code == 2
    assert "'analize' is not a command: did you mean analyze?" in capsys.readouterr().err


def test_a_mistyped_adapter_of_the_demo_is_answered_with_the_nearest_or_with_all(run):
    assert run("analyze", "demo", "swap-lorra")[2] == [
        "hiplora: swap-lorra is not a folder, nor an adapter of the demo: did you mean swap-lora?"
    ]
    [line] = run("analyze", "demo", "nosuch")[2]
    assert line.endswith(
        "or an adapter of the demo (edit-hiplora, edit-lora, rot-hiplora, rot-lora, swap-hiplora, swap-lora)."
    )


def test_every_command_has_examples_that_can_be_typed():
    parser = build_parser()
    commands = commands_of(parser)
    assert set(EXAMPLES) == {"", *commands}
    for name, lines in EXAMPLES.items():
        for line in lines:
            program, *words = re.split(r" {2,}", line)[0].split()
            assert program == "hiplora"
            assert not name or words[0] == name
            if "COMMAND" not in words:
                parser.parse_known_args(words)
        if name:
            assert lines[0] in commands[name].format_help()


def test_every_line_of_help_begins_as_a_sentence():
    for name, command in commands_of(build_parser()).items():
        for action in command._actions:
            if not isinstance(action, argparse._HelpAction):
                assert action.help, (name, action.dest)
                assert action.help[0].isupper(), (name, action.help)


def commands_of(parser):
    return next(each for each in parser._actions if isinstance(each, argparse._SubParsersAction)).choices


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
