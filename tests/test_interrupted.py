"""Killed at any moment of a write, or with a full disk: what was there is there still, or what is new is complete."""

import os
import resource
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
import torch
from safetensors.numpy import load_file

from hiplora.adapters import read_adapter
from hiplora.cli import main
from hiplora.errors import HiploraError
from hiplora.sources import open_base
from hiplora.spectrum import BaseSpectra, SpectrumCache
from hiplora.tuner.export import export_lora

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="a process is forked to be killed")
_WRITES = {"open", "os.rename", "os.mkdir", "os.remove", "os.rmdir", "shutil.move", "shutil.rmtree"}


def in_a_child(work: Callable[[], object], prepare: Callable[[], None]) -> int:
    """Run work in a process of its own after `prepare`, and return its exit code: 0, 2 for a HiploraError, or -9."""
    child = os.fork()
    if child:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    code = 1
    try:
        # What it prints may go to a file, which would have a limit too.
        sys.stdout = sys.stderr = Path(os.devnull).open("w")  # noqa: SIM115
        prepare()
        work()
        code = 0
    except HiploraError:
        code = 2
    finally:
        os._exit(code)


def killed_at(number: int, folder: Path) -> Callable[[], None]:
    """Return a function that kills its process at the n-th time that something below a folder is touched."""

    def prepare() -> None:
        seen = 0

        def hook(event: str, arguments: tuple[object, ...]) -> None:
            nonlocal seen
            if event in _WRITES and str(folder) in str(arguments[0]):
                seen += 1
                if seen == number:
                    os.kill(os.getpid(), signal.SIGKILL)

        sys.addaudithook(hook)

    return prepare


def full_after(size: int) -> Callable[[], None]:
    """Return a function after which no file of its process can be larger than so many bytes."""

    def prepare() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))

    return prepare


@pytest.fixture(params=["export", "table", "spectra"])
def write(request, tmp_path, llama_base, lora_folder, monkeypatch):
    """Return what writes, what it writes, and a check that this is whole; it exists before, but for the spectra."""
    out = tmp_path / "out"
    out.mkdir()
    if request.param == "export":
        target = out / "exported"

        def export() -> None:
            export_lora(Path("assets/demo/adapters/swap-hiplora").resolve(), target)

        export()
        return export, target, lambda: len(read_adapter(target).modules) == 28
    if request.param == "table":
        target = out / "table.csv"
        monkeypatch.setenv("HIPLORA_CACHE", str(tmp_path / "cache"))
        arguments = ["analyze", str(llama_base), str(lora_folder), "--k", "4", "--out", str(target)]

        def analyze() -> None:
            if main(arguments):
                raise HiploraError("refused")

        analyze()
        return analyze, target, lambda: len(pd.read_csv(target)) == 14
    base, cache = open_base(llama_base), SpectrumCache(out)

    def spectra() -> None:
        weights = [base.weights[module] for module in base.linear_maps[:2]]
        for _ in BaseSpectra(base, cache).prepare(weights, 4):
            pass

    def whole() -> bool:
        return all(load_file(file) for file in out.rglob("*.safetensors") if not file.parent.name.startswith("."))

    return spectra, out, whole


def test_a_process_killed_at_any_moment_leaves_what_is_whole(write, tmp_path) -> None:
    work, target, whole = write
    kills = 0
    for number in range(1, 200):
        code = in_a_child(work, killed_at(number, tmp_path / "out"))
        assert target.exists()
        assert whole()
        if code == 0:
            break
        assert code == -signal.SIGKILL
        kills += 1
    else:
        pytest.fail("the work never came to its end")
    assert kills > 3
    work()
    assert whole()


@pytest.mark.parametrize("size", [0, 50, 300])
def test_a_full_disk_is_one_sentence_and_loses_nothing(write, tmp_path, size) -> None:
    work, target, whole = write

    def files() -> list[Path]:
        # Locks are empty.
        return sorted(path for path in [target, *target.rglob("*")] if path.is_file() and path.stat().st_size)

    before = files()
    code = in_a_child(work, full_after(size))
    assert code == 2
    assert whole()
    assert files() == before


def test_converting_a_pickle_on_a_full_disk_leaves_the_pickle_alone(tmp_path) -> None:
    from hiplora.convert import convert

    torch.save({"a": torch.zeros(100)}, tmp_path / "x.bin")
    assert in_a_child(lambda: convert(tmp_path / "x.bin"), full_after(0)) == 2
    assert [path.name for path in tmp_path.iterdir()] == ["x.bin"]
