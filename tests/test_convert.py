"""A pickle becomes safetensors in a process of its own, and never runs."""

import os

import pytest
import torch
from safetensors.torch import load_file

from hiplora.convert import convert
from hiplora.errors import HiploraError


class Bomb:
    """Runs a command when it is unpickled."""

    def __init__(self, command):
        self.command = command

    def __reduce__(self):
        return os.system, (self.command,)


@pytest.mark.parametrize("wrapped", [None, "state_dict", "model"])
def test_tensors_keep_their_names_and_values(tmp_path, wrapped):
    tensors = {"a.lora_A.weight": torch.randn(2, 3), "a.lora_B.weight": torch.randn(3, 2).bfloat16()}
    torch.save({wrapped: tensors, "step": 3} if wrapped else tensors, tmp_path / "adapter_model.bin")
    out = convert(tmp_path / "adapter_model.bin")
    assert out == tmp_path / "adapter_model.safetensors"
    found = load_file(out)
    assert set(found) == set(tensors)
    assert all(torch.equal(found[key], value) for key, value in tensors.items())


def test_tensors_that_share_memory_are_written_each(tmp_path):
    whole = torch.randn(4, 4)
    torch.save({"a": whole, "b": whole, "c": whole[:2]}, tmp_path / "x.bin")
    found = load_file(convert(tmp_path / "x.bin", tmp_path / "y.safetensors"))
    assert torch.equal(found["c"], whole[:2])


def test_code_in_a_pickle_does_not_run(tmp_path):
    torch.save({"a": Bomb(f"touch {tmp_path / 'ran'}")}, tmp_path / "adapter_model.bin")
    with pytest.raises(HiploraError, match=r"adapter_model\.bin cannot be converted \(it holds more than tensors"):
        convert(tmp_path / "adapter_model.bin")
    assert [path.name for path in tmp_path.iterdir()] == ["adapter_model.bin"]


@pytest.mark.parametrize("content", [b"", b"\x80\x04garbage", b"PK\x03\x04", b"text"])
def test_what_is_damaged_is_one_sentence(tmp_path, content):
    (tmp_path / "x.bin").write_bytes(content)
    with pytest.raises(HiploraError, match=r"x\.bin cannot be converted \(it holds more than tensors, or is damaged"):
        convert(tmp_path / "x.bin")


def test_a_pickle_without_tensors_is_named(tmp_path):
    torch.save([torch.zeros(1)], tmp_path / "x.bin")
    with pytest.raises(HiploraError, match="it holds no tensors by name"):
        convert(tmp_path / "x.bin")


def test_nothing_is_overwritten(tmp_path):
    torch.save({"a": torch.zeros(1)}, tmp_path / "x.bin")
    (tmp_path / "x.safetensors").write_text("precious")
    with pytest.raises(HiploraError, match=r"x\.safetensors exists already"):
        convert(tmp_path / "x.bin")
    assert (tmp_path / "x.safetensors").read_text() == "precious"


def test_a_folder_is_not_a_file(tmp_path):
    with pytest.raises(HiploraError, match="is not a file: pass the pickle itself"):
        convert(tmp_path)


def test_a_module_in_the_strangers_folder_is_not_imported(tmp_path, monkeypatch):
    torch.save({"a": torch.zeros(1)}, tmp_path / "adapter_model.bin")
    (tmp_path / "torch.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    monkeypatch.chdir(tmp_path)
    convert("adapter_model.bin")
    assert not (tmp_path / "ran").exists()


def test_a_number_becomes_a_tensor(tmp_path):
    torch.save({"a.lora_down.weight": torch.zeros(2, 2), "a.alpha": 1.0}, tmp_path / "x.bin")
    assert load_file(convert(tmp_path / "x.bin"))["a.alpha"].item() == 1.0
