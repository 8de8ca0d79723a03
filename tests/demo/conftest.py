import os

import pytest

# Before anything imports a Hugging Face library: these tests must pass with no network.
os.environ.setdefault("HF_HUB_OFFLINE", "1")


@pytest.fixture(scope="session")
def base():
    from transformers import AutoModelForCausalLM

    from hiplora.demo import base_path

    return AutoModelForCausalLM.from_pretrained(base_path(), local_files_only=True).eval()


@pytest.fixture(scope="session")
def tokenizer():
    from transformers import AutoTokenizer

    from hiplora.demo import base_path

    return AutoTokenizer.from_pretrained(base_path(), local_files_only=True)
