import json
import os
import subprocess
import sys
import weakref
from pathlib import Path

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from hiplora.errors import HiploraError
from hiplora.files import (
    Tensors,
    atomic_path,
    check_writable,
    read_json,
    reject_lfs_pointer,
    require_finite,
    write_tensors,
)


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_json_must_be_an_object_that_is_there(tmp_path, lfs_pointer):
    good, bad = tmp_path / "good.json", tmp_path / "bad.json"
    good.write_text('{"r": 8}')
    assert read_json(good) == {"r": 8}
    for content, says in (
        (b"{", "not valid JSON"),
        (b"\xff\xfe", "not valid JSON"),
        (b"[1]", "a list where"),
        (lfs_pointer, "Git LFS pointer"),
    ):
        bad.write_bytes(content)
        with pytest.raises(HiploraError, match=says) as error:
            read_json(bad)
        assert str(bad) in str(error.value)
    with pytest.raises(HiploraError, match=r"absent\.json is missing"):
        read_json(tmp_path / "absent.json")


def test_a_file_that_is_no_pointer_passes(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"version 2")
    reject_lfs_pointer(path)


def test_tensors_tell_shapes_from_the_header_and_read_one_at_a_time(tmp_path):
    path = tmp_path / "a.safetensors"
    save_file({"x": np.arange(6, dtype=np.float16).reshape(2, 3), "y": np.zeros(4)}, path, {"format": "pt"})
    tensors = Tensors(path)
    assert tensors.shapes == {"x": (2, 3), "y": (4,)}
    assert "x" in tensors.shapes
    assert "z" not in tensors.shapes
    assert tensors.read("x").dtype == np.float16
    np.testing.assert_array_equal(tensors.read("x"), np.arange(6).reshape(2, 3))


def test_bfloat16_is_read_as_it_is_stored(tmp_path):
    import torch
    from safetensors.torch import save_file as save_torch

    values = torch.tensor([[1.0, -2.5], [3.0, 0.125]], dtype=torch.bfloat16)
    save_torch({"x": values}, tmp_path / "a.safetensors")
    found = Tensors(tmp_path / "a.safetensors").read("x")
    assert found.dtype.name == "bfloat16"
    np.testing.assert_array_equal(found.astype(np.float32), values.float().numpy())


@pytest.mark.parametrize("suffix", ["bin", "pt", "pth", "ckpt", "pkl"])
def test_a_pickle_is_never_opened(tmp_path, suffix):
    path = tmp_path / f"adapter_model.{suffix}"
    path.write_bytes(b"\x80\x04.")
    with pytest.raises(HiploraError, match=f"{suffix} is a pickle, which could run code.*safetensors"):
        Tensors(path)


def test_a_truncated_file_is_named(tmp_path):
    path = tmp_path / "a.safetensors"
    save_file({"x": np.zeros((64, 64))}, path)
    whole = path.read_bytes()
    for size in (0, 4, 40, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:size])
        with pytest.raises(HiploraError, match=r"a\.safetensors is not a readable safetensors file"):
            Tensors(path)


def test_a_tensor_cut_short_after_opening_is_named(tmp_path):
    path = tmp_path / "a.safetensors"
    save_file({"x": np.zeros((64, 64))}, path)
    tensors = Tensors(path)
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(HiploraError, match="was replaced while it was open: open it again"):
        tensors.read("x")


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_is_named(value):
    array = np.ones((3, 3))
    assert require_finite(array, "it") is array
    array[1, 2] = value
    with pytest.raises(HiploraError, match="it holds NaN or infinite values"):
        require_finite(array, "it")


def test_a_file_appears_whole_and_replaces_an_earlier_one(tmp_path):
    target = tmp_path / "deep" / "table.csv"
    for text in ("first", "second"):
        with atomic_path(target) as draft:
            draft.write_text(text)
            assert not target.exists() or target.read_text() == "first"
        assert target.read_text() == text
    assert names(target.parent) == ["table.csv"]


def test_a_folder_appears_whole_and_replaces_an_earlier_one(tmp_path):
    target = tmp_path / "adapter"
    for name in ("first", "second"):
        with atomic_path(target) as draft:
            draft.mkdir()
            (draft / name).touch()
        assert names(target) == [name]
    assert names(tmp_path) == ["adapter"]


@pytest.mark.parametrize("problem", [RuntimeError, KeyboardInterrupt])
def test_a_block_that_fails_leaves_the_earlier_target_and_nothing_else(tmp_path, problem):
    target = tmp_path / "adapter"
    target.mkdir()
    (target / "kept").touch()

    def write():
        with atomic_path(target) as draft:
            draft.mkdir()
            (draft / "half").touch()
            raise problem

    with pytest.raises(problem):
        write()
    assert names(target) == ["kept"]
    assert names(tmp_path) == ["adapter"]


def test_a_target_that_cannot_be_replaced_stays(tmp_path):
    target = tmp_path / "table.csv"
    target.mkdir()
    with pytest.raises(HiploraError, match=r"table\.csv cannot be written"), atomic_path(target) as draft:
        draft.write_text("a file where a folder is")
    assert names(tmp_path) == ["table.csv"]


def test_a_folder_stays_when_its_successor_cannot_take_its_place(tmp_path, monkeypatch):
    target = tmp_path / "adapter"
    target.mkdir()
    (target / "kept").touch()
    replace = Path.replace

    def refuse_the_draft(path, other):
        if path.parent != tmp_path and path.name == "adapter":
            raise PermissionError(13, "Permission denied")
        return replace(path, other)

    monkeypatch.setattr(Path, "replace", refuse_the_draft)
    # As on a system that cannot exchange two folders in one step.
    monkeypatch.setattr("hiplora.files._exchange", lambda *_: False)
    with pytest.raises(HiploraError, match="adapter cannot be written"), atomic_path(target) as draft:
        draft.mkdir()
    assert names(tmp_path) == ["adapter"]
    assert names(target) == ["kept"]


def test_a_place_below_a_file_cannot_be_written(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(HiploraError, match=r"below cannot be written"), atomic_path(tmp_path / "file" / "below"):
        pass


def test_a_librarys_own_reading_error_is_not_called_a_writing_error(tmp_path):
    with pytest.raises(OSError, match="no tokenizer here"), atomic_path(tmp_path / "copy"):
        raise OSError("no tokenizer here")


def test_a_full_disk_is_said_in_a_sentence_and_leaves_nothing(tmp_path):
    code = f"""
import resource, signal, sys
import numpy as np
from pathlib import Path
from safetensors import safe_open
from safetensors.numpy import load_file, save_file
from hiplora.errors import HiploraError
from hiplora.files import atomic_path
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
ways = {{"text": lambda p: p.write_text("x" * 10**5), "tensor": lambda p: save_file({{"x": np.zeros(10**5)}}, p)}}
for name, write in ways.items():
    try:
        with atomic_path(Path({str(tmp_path)!r}) / name) as draft:
            write(draft)
    except HiploraError as error:
        print(error)
"""
    lines = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.splitlines()
    assert [line.split(" (")[0] for line in lines] == [f"{tmp_path / n} cannot be written" for n in ("text", "tensor")]
    assert names(tmp_path) == []


def test_a_cache_folder_that_cannot_be_written_is_named(tmp_path):
    check_writable(tmp_path / "new")
    assert names(tmp_path / "new") == []
    (tmp_path / "file").touch()
    with pytest.raises(HiploraError, match=r"The cache folder .*file cannot be written: set HIPLORA_CACHE"):
        check_writable(tmp_path / "file")


def test_written_json_reads_back(tmp_path):
    with atomic_path(tmp_path / "a.json") as draft:
        draft.write_text(json.dumps({"k": 16}))
    assert read_json(tmp_path / "a.json") == {"k": 16}
    assert os.listdir(tmp_path) == ["a.json"]  # noqa: PTH208


def test_a_file_replaced_while_it_is_open_is_not_read_on(tmp_path):
    path = tmp_path / "x.safetensors"
    save_file({"a": np.zeros(2)}, path)
    tensors = Tensors(path)
    save_file({"a": np.ones(3)}, tmp_path / "new")
    (tmp_path / "new").replace(path)
    for read in (tensors.read, lambda key: tensors.read_slice(key, 0), tensors.read_torch):
        with pytest.raises(HiploraError, match=r"x\.safetensors was replaced while it was open: open it again"):
            read("a")
    path.unlink()
    with pytest.raises(HiploraError, match=r"x\.safetensors: tensor a cannot be read"):
        tensors.read("a")


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16", "float64", "int64", "uint8", "bool"])
def test_the_library_reads_what_is_written_one_tensor_after_the_other(tmp_path, dtype):
    rng = np.random.default_rng(0)
    arrays = {
        name: np.asarray(rng.normal(size=shape)).astype(np.dtype(dtype))
        for name, shape in {"matrix": (3, 5), "a scalar": (), "nothing": (0, 4), "columns": (7,)}.items()
    }
    arrays["columns"] = arrays["matrix"].T
    write_tensors(tmp_path / "own.safetensors", arrays.items(), {"format": "pt"})
    found = load_file(tmp_path / "own.safetensors")
    assert found.keys() == arrays.keys()
    for name, array in arrays.items():
        assert found[name].dtype == array.dtype
        np.testing.assert_array_equal(found[name], array)
    with safe_open(tmp_path / "own.safetensors", "np") as file:
        assert file.metadata() == {"format": "pt"}


def test_a_tensor_is_let_go_once_it_is_written(tmp_path):
    alive = []

    def made():
        for number in range(4):
            array = np.zeros((8, 8), np.float32)
            alive.append(weakref.ref(array))
            yield str(number), array
            del array
            # The writer may hold the one that it was given last.
            assert sum(each() is not None for each in alive) <= 1

    write_tensors(tmp_path / "own.safetensors", made(), {})
    assert len(load_file(tmp_path / "own.safetensors")) == 4
