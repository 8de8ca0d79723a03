import atexit
import json
import os
import runpy
import shutil
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import settings
from safetensors.numpy import load_file, save_file

# Before anything imports a Hugging Face library or asks for the cache: no network, and nobody's own cache.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HIPLORA_CACHE"] = tempfile.mkdtemp(prefix="hiplora-tests-")
atexit.register(shutil.rmtree, os.environ["HIPLORA_CACHE"], ignore_errors=True)
os.environ.setdefault("OMP_NUM_THREADS", "1")
# Not a request leaves this machine, from here or from a process that a test starts.
os.environ["PYTHONPATH"] = os.pathsep.join(
    [str(Path(__file__).with_name("offline")), *filter(None, [os.environ.get("PYTHONPATH")])]
)
runpy.run_path(str(Path(__file__).with_name("offline") / "sitecustomize.py"))

settings.register_profile("default", deadline=None, derandomize=True, max_examples=40, database=None)
settings.load_profile("default")


@pytest.fixture(autouse=True, scope="session")
def _one_torch_thread():
    """Products as small as these only wait for a second thread."""
    import torch

    torch.set_num_threads(1)


@pytest.fixture
def rng():
    return np.random.default_rng(0)


@pytest.fixture
def cache_folder(tmp_path, monkeypatch):
    """A spectrum cache of the test's own, for the command line and the library alike."""
    folder = tmp_path / "cache"
    monkeypatch.setenv("HIPLORA_CACHE", str(folder))
    return folder


def _save(model, folder):
    model.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def llama_base(tmp_path_factory):
    """Two layers, grouped queries (k and v are 16 x 32), tied embeddings."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=40,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=16,
        tie_word_embeddings=True,
    )
    return _save(LlamaForCausalLM(config), tmp_path_factory.mktemp("models") / "tiny-llama")


@pytest.fixture(scope="session")
def gpt2_base(tmp_path_factory):
    """Two layers of Conv1D, which stores its weights in x out."""
    import torch
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(0)
    config = GPT2Config(vocab_size=40, n_embd=24, n_layer=2, n_head=2, n_positions=16)
    return _save(GPT2LMHeadModel(config), tmp_path_factory.mktemp("models") / "tiny-gpt2")


@pytest.fixture(scope="session")
def make_adapter():
    """Return `make(base, folder, peft_config, zero=False) -> PeftModel`: an adapter with a random B, saved by PEFT."""
    import torch
    from peft import get_peft_model
    from transformers import AutoModelForCausalLM

    def make(base, folder, config, *, zero=False, seed=0):
        torch.manual_seed(seed)
        model = get_peft_model(AutoModelForCausalLM.from_pretrained(base), config)
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if parameter.requires_grad and not (zero and "lora_B" in name):
                    parameter.normal_(std=0.02)
        model.save_pretrained(folder)
        return model

    return make


@pytest.fixture(scope="session")
def lora_folder(llama_base, make_adapter, tmp_path_factory):
    """A plain LoRA of all linear maps of `llama_base`, r = 4, alpha = 8."""
    from peft import LoraConfig

    folder = tmp_path_factory.mktemp("adapters") / "plain-lora"
    make_adapter(llama_base, folder, LoraConfig(r=4, lora_alpha=8, target_modules="all-linear"))
    return folder


@pytest.fixture
def write_adapter(tmp_path):
    """Return `write(name, tensors, **config) -> folder`: an adapter folder from arrays, without PEFT."""

    def write(name, tensors, **config):
        folder = tmp_path / name
        folder.mkdir(parents=True)
        save_file(tensors, folder / "adapter_model.safetensors")
        fields = {"peft_type": "LORA", "r": 2, "lora_alpha": 2, "base_model_name_or_path": "tiny"} | config
        (folder / "adapter_config.json").write_text(json.dumps(fields))
        return folder

    return write


@pytest.fixture
def write_base(tmp_path):
    """Return `write(name, weights, **config) -> folder`: a model folder from `{module: (m, n) array}`."""

    def write(name, weights, **config):
        folder = tmp_path / name
        folder.mkdir(parents=True)
        save_file({f"{module}.weight": array for module, array in weights.items()}, folder / "model.safetensors")
        (folder / "config.json").write_text(json.dumps({"model_type": "llama"} | config))
        return folder

    return write


@pytest.fixture
def changed_copy(tmp_path):
    """Return `copy(folder, name, change) -> folder`: a copy whose tensors are `change(tensors)`."""

    def copy(folder, name, change, file="adapter_model.safetensors"):
        target = tmp_path / name
        target.mkdir()
        for path in Path(folder).iterdir():
            if path.is_file() and path.name != file:
                (target / path.name).write_bytes(path.read_bytes())
        save_file(change(load_file(Path(folder) / file)), target / file)
        return target

    return copy


LFS_POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"0" * 64 + b"\nsize 123\n"


@pytest.fixture(scope="session")
def lfs_pointer():
    return LFS_POINTER
