"""Several processes, one cache: they share the work, and the loss of one loses nothing that was done."""

import os
import signal
import subprocess
import sys

import pytest
from filelock import FileLock

from hiplora.sources import open_base
from hiplora.spectrum import SpectrumCache
from hiplora.spectrum.prepare import BaseSpectra
from tests.waiting import until


@pytest.fixture
def base_folder(write_base, rng):
    return write_base("model", {f"model.layers.{i}.mlp.up_proj": rng.normal(size=(120 + i, 100)) for i in range(8)})


def weights(base):
    return [base.weights[name] for name in base.linear_maps]


def entries(cache):
    # Not what is still being written.
    found = [path for path in (cache / "spectra").glob("*/*.safetensors") if not path.parent.name.startswith(".")]
    return {path.name: path.read_bytes() for path in found}


def test_largest_weight_comes_first(base_folder, tmp_path):
    base = open_base(base_folder)
    steps = list(BaseSpectra(base, SpectrumCache(tmp_path / "cache")).prepare(weights(base), 4))
    assert [step.module for step in steps[1:]] == base.linear_maps[::-1]


def test_what_another_process_works_on_is_left_to_it_and_waited_for(base_folder, tmp_path):
    base, cache = open_base(base_folder), SpectrumCache(tmp_path / "cache")
    spectra = BaseSpectra(base, cache)
    taken = base.linear_maps[-1]
    (cache.folder / "claims").mkdir(parents=True)
    lock = FileLock(spectra._claim_path(base.weights[taken]))
    lock.acquire()
    asked = []

    def stop():
        asked.append(1)
        if len(asked) == 12:
            lock.release()
        return False

    steps = list(spectra.prepare(weights(base), 4, stop))
    assert [step.module for step in steps[1:]] == [*base.linear_maps[-2::-1], taken]
    assert len(asked) >= 12
    assert spectra.missing(weights(base), 4) == []


def test_what_another_process_has_done_meanwhile_is_not_done_again(base_folder, tmp_path, monkeypatch):
    base, cache = open_base(base_folder), SpectrumCache(tmp_path / "cache")
    first = BaseSpectra(base, cache).prepare(weights(base), 4)
    next(first)
    list(BaseSpectra(base, cache).prepare(weights(base), 4))

    def read(weight):
        raise AssertionError(f"{weight.module} was read again")

    monkeypatch.setattr(base, "read", read)
    assert [step.done for step in first] == list(range(1, 9))


def test_two_ranks_of_torchrun_fill_the_cache_as_one_process_does(base_folder, tmp_path):
    def svd(*launcher, cache):
        return subprocess.run(
            [sys.executable, "-m", *launcher, "hiplora", "svd", str(base_folder), "--k", "4"],
            env=os.environ | {"HIPLORA_CACHE": str(cache)},
            capture_output=True,
            text=True,
            check=True,
        ).stdout

    one = svd(cache=tmp_path / "one")
    two = svd("torch.distributed.run", "--nproc-per-node", "2", "-m", cache=tmp_path / "two")
    assert one.startswith("8 maps of model: 0 from cache, 8 computed")
    assert two.count("maps of model") == 1
    assert entries(tmp_path / "one") == entries(tmp_path / "two")
    assert len(entries(tmp_path / "two")) == 8


def test_what_a_lost_process_had_done_is_kept_and_the_next_does_the_rest(write_base, rng, tmp_path):
    folder = write_base("slow", {f"model.layers.{i}.mlp.up_proj": rng.normal(size=(700, 600)) for i in range(12)})
    base, cache = open_base(folder), tmp_path / "cache"
    process = subprocess.Popen(
        [sys.executable, "-m", "hiplora", "svd", str(folder)],
        env=os.environ | {"HIPLORA_CACHE": str(cache)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    until(lambda: entries(cache), process)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    done = len(entries(cache))
    assert 0 < done < 12
    spectra = BaseSpectra(base, SpectrumCache(cache))
    steps = list(spectra.prepare(weights(base), 64))
    # The memo of a weight's hash is written after its spectrum: at most that one is looked at again.
    assert 12 - done <= steps[-1].total <= 13 - done
    assert len(entries(cache)) == 12
