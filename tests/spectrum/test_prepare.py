import errno
import json
import subprocess
import sys

import numpy as np
import pytest

from hiplora.errors import HiploraError
from hiplora.sources import open_base
from hiplora.spectrum import SpectrumCache, prepare
from hiplora.spectrum.prepare import BaseSpectra, resolve_device


@pytest.fixture
def base(write_base, rng):
    return open_base(
        write_base("model", {f"model.layers.{i}.self_attn.q_proj": rng.normal(size=(20, 12)) for i in range(5)})
    )


@pytest.fixture
def cache(tmp_path):
    return SpectrumCache(tmp_path / "cache")


def weights(base):
    return [base.weights[name] for name in base.linear_maps]


def test_preparing_computes_what_is_missing_and_tells_how_far_it_is(base, cache):
    spectra = BaseSpectra(base, cache)
    assert len(spectra.missing(weights(base), 4)) == 5
    steps = list(spectra.prepare(weights(base), 4))
    assert [(step.done, step.total) for step in steps] == [(i, 5) for i in range(6)]
    assert [step.share for step in steps] == pytest.approx([i / 5 for i in range(6)])
    assert [step.module for step in steps] == ["", *base.linear_maps]
    assert steps[0].remaining is None
    assert all(step.remaining >= 0 for step in steps[1:])
    assert steps[-1].remaining == 0
    assert spectra.missing(weights(base), 4) == []


def test_the_share_follows_the_work_not_the_count(write_base, rng, cache):
    base = open_base(write_base("model", {"a": rng.normal(size=(40, 40)), "b": rng.normal(size=(4, 4))}))
    shares = [step.share for step in BaseSpectra(base, cache).prepare(weights(base))]
    assert shares == pytest.approx([0, 1000 / 1001, 1])


def test_preparing_what_is_there_is_done_at_once(base, cache):
    list(BaseSpectra(base, cache).prepare(weights(base)))
    (step,) = BaseSpectra(base, cache).prepare(weights(base))
    assert (step.done, step.total, step.share, step.remaining) == (0, 0, 1, 0)


def test_a_preparation_that_is_stopped_keeps_what_is_done_and_the_next_does_the_rest(base, cache):
    asked = iter([False, False, True])
    steps = list(BaseSpectra(base, cache).prepare(weights(base), stop=lambda: next(asked)))
    assert steps[-1].done == 2
    again = BaseSpectra(base, cache)
    assert len(again.missing(weights(base))) == 3
    assert list(again.prepare(weights(base)))[-1].total == 3


def test_an_interrupt_loses_one_weight_at_most(base, cache, monkeypatch):
    spectra = BaseSpectra(base, cache)
    read = base.read

    def interrupted(weight):
        if weight.module == base.linear_maps[3]:
            raise KeyboardInterrupt
        return read(weight)

    monkeypatch.setattr(base, "read", interrupted)
    with pytest.raises(KeyboardInterrupt):
        list(spectra.prepare(weights(base)))
    assert [w.module for w in BaseSpectra(base, cache).missing(weights(base))] == base.linear_maps[3:]


def test_a_warm_start_reads_no_weight(base, cache, monkeypatch):
    list(BaseSpectra(base, cache).prepare(weights(base)))

    def fail(_):
        raise AssertionError("read a weight")

    monkeypatch.setattr(base, "read", fail)
    warm = BaseSpectra(base, cache)
    assert warm.get(weights(base)[0], 4).k == 4
    assert warm.weight_hash(weights(base)[0]) == warm.get(weights(base)[0]).weight_hash


def test_a_model_saved_anew_is_read_anew(write_base, rng, cache, tmp_path):
    from safetensors.numpy import save_file

    folder = write_base("model", {"a": rng.normal(size=(6, 4))})
    first = open_base(folder)
    old = BaseSpectra(first, cache).get(first.weights["a"])
    save_file({"a.weight": rng.normal(size=(6, 4)), "b.weight": np.zeros((2, 2))}, folder / "model.safetensors")
    second = open_base(folder)
    assert BaseSpectra(second, cache).get(second.weights["a"]).weight_hash != old.weight_hash


def test_a_copy_of_a_model_shares_its_spectra(write_base, rng, cache):
    W = {"a": rng.normal(size=(6, 4))}
    for name in ("one", "two"):
        base = open_base(write_base(name, W))
        BaseSpectra(base, cache).get(base.weights["a"])
    assert len(list(cache.folder.glob("spectra/*/*.safetensors"))) == 1


def test_a_cache_that_can_only_be_read_serves_a_copy_of_the_model(write_base, rng, cache, monkeypatch):
    W = {"a": rng.normal(size=(6, 4)), "b": rng.normal(size=(4, 6))}
    one, two = (open_base(write_base(name, W)) for name in ("one", "two"))
    list(BaseSpectra(one, cache).prepare(weights(one)))

    def refuse(*_, **__):
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr("hiplora.files.tempfile.mkdtemp", refuse)
    monkeypatch.setattr(prepare, "FileLock", refuse)
    spectra = BaseSpectra(two, cache)
    assert [progress.total for progress in spectra.prepare(weights(two))] == [0]
    assert spectra.missing(weights(two)) == []
    assert spectra.get(two.weights["a"]).weight_hash == BaseSpectra(one, cache).get(one.weights["a"]).weight_hash
    changed = open_base(write_base("changed", {"a": rng.normal(size=(6, 4))}))
    with pytest.raises(HiploraError, match="cannot be written: set HIPLORA_CACHE"):
        list(BaseSpectra(changed, cache).prepare(weights(changed)))


@pytest.mark.parametrize("memo", ["", "{", "[1]", "null"])
def test_a_damaged_memo_is_forgotten(base, cache, memo):
    list(BaseSpectra(base, cache).prepare(weights(base)))
    (path,) = cache.folder.glob("hashes/*.json")
    path.write_text(memo)
    again = BaseSpectra(base, cache)
    assert again.get(weights(base)[0], 4).k == 4
    assert len(json.loads(path.read_text())) == 1


def test_a_weight_with_fewer_than_k_is_prepared_whole(write_base, rng, cache):
    base = open_base(write_base("model", {"a": rng.normal(size=(20, 30)), "b": rng.normal(size=(2, 30))}))
    spectra = BaseSpectra(base, cache)
    list(spectra.prepare(weights(base), 16))
    assert spectra.missing(weights(base), 16) == []
    assert spectra.get(base.weights["b"]).k == 2


def test_an_unwritable_cache_is_said_before_the_work(base, tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setattr(base, "read", lambda _: pytest.fail("worked first"))
    with pytest.raises(HiploraError, match=r"The cache folder .*file cannot be written"):
        list(BaseSpectra(base, SpectrumCache(tmp_path / "file")).prepare(weights(base)))


def test_nan_is_named_with_its_file_and_tensor(write_base, rng, cache):
    W = rng.normal(size=(6, 4))
    W[0, 0] = np.nan
    base = open_base(write_base("model", {"a": W}))
    with pytest.raises(HiploraError, match=r"model\.safetensors: a\.weight holds NaN"):
        list(BaseSpectra(base, cache).prepare(weights(base)))


MEASURE_PEAK = """
import sys
from pathlib import Path
from hiplora.sources import open_base
from hiplora.spectrum import SpectrumCache, prepare
from hiplora.spectrum.prepare import BaseSpectra

base = open_base(sys.argv[1])
for _ in BaseSpectra(base, SpectrumCache(Path(sys.argv[2]))).prepare([base.weights[m] for m in base.linear_maps], 8):
    pass
# Not getrusage, which starts from the memory of the process that launched this one.
print(next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM:")).split()[1])
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_memory_follows_the_largest_layer_not_the_model(tmp_path, rng):
    from safetensors.numpy import save_file

    shape, peaks = (60_000, 16), {}
    for layers in (4, 16):
        folder = tmp_path / f"model-{layers}"
        folder.mkdir()
        (folder / "config.json").write_text('{"model_type": "llama"}')
        files = {}
        for i in range(layers):
            name, file = f"model.layers.{i}.mlp.up_proj.weight", f"model-{i:05}.safetensors"
            save_file({name: np.asarray(rng.normal(size=shape), dtype=np.float32)}, folder / file)
            files[name] = file
        (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": files}))
        arguments = [sys.executable, "-c", MEASURE_PEAK, str(folder), str(tmp_path / f"cache-{layers}")]
        peaks[layers] = 1024 * int(subprocess.run(arguments, capture_output=True, text=True, check=True).stdout)
    one_layer = 4 * shape[0] * shape[1]
    assert peaks[16] - peaks[4] < 3 * one_layer, peaks


def test_a_gpu_that_is_not_there_is_one_sentence(monkeypatch):
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(HiploraError, match=r"device cuda is not available: torch .* sees no CUDA GPU, use cpu"):
        resolve_device("cuda")
    assert resolve_device("auto") == "cpu"


def test_spectra_that_would_not_fit_into_the_cache_are_refused_before_any_is_computed(llama_base, tmp_path):
    base = open_base(llama_base)
    spectra = BaseSpectra(base, SpectrumCache(tmp_path / "cache", limit=1000))
    with pytest.raises(HiploraError, match="set HIPLORA_CACHE_LIMIT to more bytes"):
        list(spectra.prepare([base.weights[module] for module in base.linear_maps], 4))
    assert not list((tmp_path / "cache").glob("spectra/*/*"))
