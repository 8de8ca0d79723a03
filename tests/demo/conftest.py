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


@pytest.fixture(autouse=True, scope="package")
def _one_torch_thread(_two_torch_threads):
    """Models this small gain nothing from a second thread, and lose much when the machine is busy."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
