import json
import re

import numpy as np
import pytest
from safetensors.numpy import save_file

from hiplora.adapters import read_adapter, read_updates
from hiplora.card import Card
from hiplora.errors import HiploraError
from hiplora.paths import RUN_ADAPTER, RUN_FILE


@pytest.fixture
def tensors(rng):
    return {
        "base_model.model.a.lora_A.weight": rng.normal(size=(2, 5)),
        "base_model.model.a.lora_B.weight": rng.normal(size=(4, 2)),
    }


def test_a_missing_folder_is_named(tmp_path):
    with pytest.raises(HiploraError, match="absent is not a folder: pass the adapter's folder"):
        read_adapter(tmp_path / "absent")


def test_the_file_stands_for_its_folder(lora_folder):
    adapter = read_adapter(lora_folder / "adapter_model.safetensors")
    assert (adapter.name, adapter.source) == (lora_folder.name, str(lora_folder))


def test_an_empty_folder_is_named(tmp_path):
    with pytest.raises(HiploraError, match=r"adapter_model\.safetensors is missing: pass a folder that"):
        read_adapter(tmp_path)


def test_weights_without_a_config_are_named(write_adapter, tensors):
    folder = write_adapter("adapter", tensors)
    (folder / "adapter_config.json").unlink()
    with pytest.raises(HiploraError, match=r"adapter_model\.safetensors has no adapter_config\.json beside it"):
        read_adapter(folder)


@pytest.mark.parametrize("name", ["adapter_model.safetensors", "adapter_config.json"])
def test_a_git_lfs_pointer_is_named(write_adapter, tensors, lfs_pointer, name):
    folder = write_adapter("adapter", tensors)
    (folder / name).write_bytes(lfs_pointer)
    with pytest.raises(HiploraError, match=rf"{name} is a Git LFS pointer.*git lfs pull"):
        read_adapter(folder)


def test_pointers_without_a_config_are_still_said_to_be_pointers(tmp_path, lfs_pointer):
    (tmp_path / "adapter_model.safetensors").write_bytes(lfs_pointer)
    with pytest.raises(HiploraError, match="Git LFS pointer"):
        read_adapter(tmp_path)


def test_a_pickle_is_never_opened(write_adapter, tensors):
    import torch

    folder = write_adapter("adapter", tensors)
    (folder / "adapter_model.safetensors").unlink()
    for zipped in (True, False):
        torch.save({"x": torch.zeros(1)}, folder / "adapter_model.bin", _use_new_zipfile_serialization=zipped)
        for path in (folder, folder / "adapter_model.bin"):
            with pytest.raises(HiploraError, match=r"adapter_model\.bin is a pickle, which could run code.*convert"):
                read_adapter(path)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "is empty"),
        (b"<!DOCTYPE html>\n<html>", "is text ('<!DOCTYPE html>'), perhaps a web page"),
        (b"version https://git-lfs.github.com/spec/v1\n", "is a Git LFS pointer"),
        (b"GGUF\x03", "is a GGUF file, which is read as a base only"),
        (b"\x00\xff\xfe", "is not a safetensors file"),
    ],
)
def test_a_file_is_called_what_it_is(tmp_path, content, reason):
    (tmp_path / "adapter_model.bin").write_bytes(content)
    for path in (tmp_path, tmp_path / "adapter_model.bin"):
        with pytest.raises(HiploraError, match=rf"adapter_model\.bin {re.escape(reason)}"):
            read_adapter(path)


def test_an_adapter_in_several_files_is_read_from_all(write_adapter, tensors):
    folder = write_adapter("adapter", tensors)
    (folder / "adapter_model.safetensors").unlink()
    parts = [folder / f"adapter_model-0000{i}-of-00002.safetensors" for i in (1, 2)]
    for part, key in zip(parts, tensors, strict=True):
        save_file({key: tensors[key]}, part)
    assert read_adapter(folder).delta("a").shape == (4, 5)
    parts[1].unlink()
    with pytest.raises(HiploraError, match="adapter holds 1 of 2 files of its adapter: download the others"):
        read_adapter(folder)


def test_an_adapter_of_a_name_of_its_own_is_found_in_its_folder(write_adapter, tensors):
    folder = write_adapter("run/style", tensors)
    assert read_adapter(folder.parent).name == "style"
    write_adapter("run/checkpoint-20", tensors)
    with pytest.raises(HiploraError, match=r"run holds 2 adapters in folders .* \(checkpoint-20, style\): pass one"):
        read_adapter(folder.parent)


def test_an_adapter_in_the_hubs_cache_goes_by_its_name_there(write_adapter, tensors):
    folder = write_adapter("models--me--style/snapshots/0123456789abcdef", tensors)
    assert read_adapter(folder).name == "me/style"


def test_another_rank_in_the_config_is_named(write_adapter, tensors):
    (caveat,) = read_adapter(write_adapter("adapter", tensors, r=16)).caveats
    assert caveat.startswith("adapter_config.json says r = 16, and the factors of 1 modules have another (a: 2)")


def test_factors_in_float8_are_read(write_adapter, tensors):
    import torch
    from safetensors.torch import load_file as load_torch
    from safetensors.torch import save_file as save_torch

    file = write_adapter("adapter", tensors, r=2, lora_alpha=2) / "adapter_model.safetensors"
    small = {key: value.to(torch.float8_e4m3fn) for key, value in load_torch(file).items()}
    save_torch(small, file)
    A, B = (small[f"base_model.model.a.lora_{x}.weight"].double().numpy() for x in "AB")
    np.testing.assert_allclose(read_adapter(file.parent).delta("a").dense(), B @ A)


def test_a_truncated_file_is_named(write_adapter, tensors):
    path = write_adapter("adapter", tensors) / "adapter_model.safetensors"
    path.write_bytes(path.read_bytes()[:-8])
    with pytest.raises(HiploraError, match=r"adapter_model\.safetensors is not a readable safetensors file"):
        read_adapter(path.parent)


@pytest.mark.parametrize("peft_type", ["SOMETHING", 3])
def test_a_tuner_that_peft_does_not_have_is_named(write_adapter, tensors, peft_type):
    folder = write_adapter("adapter", tensors, peft_type=peft_type)
    with pytest.raises(HiploraError, match=rf"says peft_type {peft_type}, which PEFT does not have"):
        read_adapter(folder)


@pytest.mark.parametrize("peft_type", ["", None])
def test_a_config_with_a_rank_and_no_tuner_is_that_of_a_lora(write_adapter, tensors, peft_type):
    adapter = read_adapter(write_adapter("adapter", tensors, peft_type=peft_type, r=2))
    assert (adapter.method, adapter.modules) == ("LoRA", ["a"])


def test_a_tuner_without_its_tensors_is_named(write_adapter, tensors):
    with pytest.raises(HiploraError, match=r"adapter_model\.safetensors holds no LoHa weights"):
        read_adapter(write_adapter("adapter", tensors, peft_type="LOHA"))


@pytest.mark.parametrize("fields", [{}, {"peft_type": None}])
def test_a_config_that_names_no_tuner_is_named(write_adapter, tensors, fields):
    folder = write_adapter("adapter", tensors)
    (folder / "adapter_config.json").write_text(json.dumps(fields))
    with pytest.raises(HiploraError, match=r"adapter_config\.json says peft_type"):
        read_adapter(folder)


def test_an_adapter_is_called_as_its_folder_and_opens_by_path_as_text(write_adapter, tensors, monkeypatch):
    folder = write_adapter("my-adapter", tensors)
    assert read_adapter(str(folder)).name == "my-adapter"
    monkeypatch.chdir(folder)
    assert read_adapter(".").name == "my-adapter"


def test_opening_reads_no_tensor(write_adapter, tensors, monkeypatch):
    from hiplora.files import Tensors

    folder = write_adapter("adapter", tensors)
    monkeypatch.setattr(Tensors, "read", lambda *_: pytest.fail("read a tensor"))
    assert read_adapter(folder).shape("a") == (4, 5)


def test_adapters_of_one_name_are_told_apart_by_their_parents(write_adapter, tensors):
    paths = [write_adapter(name, tensors) for name in ("seed1/final", "seed2/final", "other")]
    assert [adapter.name for adapter in read_updates(paths)] == ["seed1/final", "seed2/final", "other"]


def test_names_are_unique_even_where_the_parents_share_theirs(write_adapter, tensors):
    paths = [write_adapter(f"{run}/seed1/final", tensors) for run in ("a", "b")]
    names = [adapter.name for adapter in read_updates([*paths, paths[0]])]
    assert len(set(names)) == 3


def test_the_first_that_cannot_be_read_is_named(write_adapter, tensors, tmp_path):
    with pytest.raises(HiploraError, match="absent is not a folder"):
        read_updates([write_adapter("good", tensors), tmp_path / "absent"])


def test_an_update_is_the_scaled_product_of_the_factors(write_adapter, tensors):
    A, B = (tensors[f"base_model.model.a.lora_{x}.weight"] for x in "AB")
    adapter = read_adapter(write_adapter("adapter", tensors, r=2, lora_alpha=8))
    np.testing.assert_allclose(adapter.delta("a").dense(), 4 * B @ A)


def test_the_demos_adapters_are_known_by_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert read_adapter("swap-lora").name == "swap-lora"


@pytest.mark.parametrize("name", ["~nobody-of-this-name/x", "x" * 5000])
def test_what_is_no_path_is_one_sentence(name):
    with pytest.raises(HiploraError, match="is not a path that can be opened"):
        read_adapter(name)


@pytest.fixture
def write_run(write_adapter, tensors):
    """Return `write(name) -> folder`: a run's folder with its latest adapter."""

    def write(name):
        folder = write_adapter(f"{name}/{RUN_ADAPTER}", tensors).parent
        (folder / RUN_FILE).write_text("{}")
        return folder

    return write


def test_a_run_opens_as_its_latest_adapter_under_the_runs_name(write_run):
    run = write_run("swap-long")
    (run / RUN_ADAPTER / "card.json").write_text('{"task_score": 0.5}')
    adapter = read_adapter(run)
    assert (adapter.name, adapter.path, adapter.card) == ("swap-long", run / "adapter", Card(task_score=0.5))
    assert adapter.modules == ["a"]


def test_a_run_opens_from_within_itself(write_run, monkeypatch):
    monkeypatch.chdir(write_run("swap-long"))
    assert read_adapter(".").name == "swap-long"


def test_a_run_without_a_checkpoint_is_said_to_have_none(tmp_path):
    (tmp_path / "young").mkdir()
    (tmp_path / "young" / RUN_FILE).write_text("{}")
    with pytest.raises(HiploraError, match="young has no checkpoint yet: "):
        read_adapter(tmp_path / "young")


def test_runs_of_one_name_are_told_apart_by_where_they_lie(write_run):
    paths = [write_run("monday/swap"), write_run("tuesday/swap")]
    assert [adapter.name for adapter in read_updates(paths)] == ["monday/swap", "tuesday/swap"]


def test_an_adapter_beside_anothers_run_file_is_opened_itself(write_adapter, tensors):
    folder = write_adapter("mine", tensors)
    (folder / RUN_FILE).write_text("{}")
    assert read_adapter(folder).path == folder
