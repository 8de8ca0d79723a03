"""Fresh copies of the tiny bases."""

import pytest
import torch
from transformers import AutoModelForCausalLM, PreTrainedModel


@pytest.fixture
def base_folders(llama_base, gpt2_base):
    """Folders of `llama` (nn.Linear) and `gpt2` (Conv1D)."""
    return {"llama": llama_base, "gpt2": gpt2_base}


@pytest.fixture
def load_base(base_folders):
    """Return a fresh copy of a base, in eval mode; `other` is a llama with other weights."""

    def load(name: str = "llama", dtype: torch.dtype = torch.float32) -> PreTrainedModel:
        if name == "other":
            torch.manual_seed(5)
            model = AutoModelForCausalLM.from_config(load().config)
        else:
            model = AutoModelForCausalLM.from_pretrained(base_folders[name], dtype=dtype)
        return model.eval()

    return load


@pytest.fixture
def tokens() -> torch.Tensor:
    """(8, 12) token ids."""
    return torch.randint(0, 40, (8, 12), generator=torch.Generator().manual_seed(3))
