import json

import numpy as np
import pytest

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


def test_a_file_in_place_of_the_folder_is_named(lora_folder):
    with pytest.raises(HiploraError, match=r"adapter_model\.safetensors is not a folder"):
        read_adapter(lora_folder / "adapter_model.safetensors")


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
    folder = write_adapter("adapter", tensors)
    (folder / "adapter_model.safetensors").rename(folder / "adapter_model.bin")
    with pytest.raises(HiploraError, match=r"adapter_model\.bin is a pickle, which could run code"):
        read_adapter(folder)


def test_a_truncated_file_is_named(write_adapter, tensors):
    path = write_adapter("adapter", tensors) / "adapter_model.safetensors"
    path.write_bytes(path.read_bytes()[:-8])
    with pytest.raises(HiploraError, match=r"adapter_model\.safetensors is not a readable safetensors file"):
        read_adapter(path.parent)


@pytest.mark.parametrize("peft_type", ["SOMETHING", "", None, 3])
def test_a_tuner_that_peft_does_not_have_is_named(write_adapter, tensors, peft_type):
    folder = write_adapter("adapter", tensors, peft_type=peft_type)
    named = str(peft_type).upper() if peft_type != "" else "nothing"
    with pytest.raises(HiploraError, match=rf"adapter_config\.json says peft_type {named}, which PEFT does not have"):
        read_adapter(folder)


def test_a_tuner_without_its_tensors_is_named(write_adapter, tensors):
    with pytest.raises(HiploraError, match=r"adapter_model\.safetensors holds no LoHa weights"):
        read_adapter(write_adapter("adapter", tensors, peft_type="LOHA"))


@pytest.mark.parametrize("fields", [{}, {"peft_type": None}, {"r": 8}])
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
