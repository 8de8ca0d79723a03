import pytest


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
