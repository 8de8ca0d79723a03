import numpy as np
import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

from hiplora.demo.tokenizer import VOCABULARY, build_tokenizer
from hiplora.geometry import Text


@pytest.fixture(scope="session")
def readable(tmp_path_factory):
    """Return `{architecture: folder}`: small models with the demo's tokenizer, which reads a line at a time."""
    torch.manual_seed(0)
    size = len(VOCABULARY)
    llama = LlamaConfig(
        vocab_size=size, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=64, tie_word_embeddings=False,
    )  # fmt: skip
    gpt2 = GPT2Config(vocab_size=size, n_embd=24, n_layer=2, n_head=2, n_positions=64)
    found = {}
    for name, model in {"llama": LlamaForCausalLM(llama), "gpt2": GPT2LMHeadModel(gpt2)}.items():
        found[name] = tmp_path_factory.mktemp("readable") / name
        model.save_pretrained(found[name])
        build_tokenizer().save_pretrained(found[name])
    return found


@pytest.fixture(scope="session")
def lines():
    """Return a text of 40 lines of different lengths, 530 tokens for the demo's tokenizer."""
    rng = np.random.default_rng(0)
    letters = np.array(list("abcdefgh"))
    return Text("lines", tuple("".join(rng.choice(letters, 3 + 19 * i // 40)) for i in range(40)))
