import numpy as np
import pytest


@pytest.fixture(scope="session")
def byte_bases(tmp_path_factory):
    """Return `{architecture: folder}`: small models that read bytes, a Llama, and a GPT-2, which has Conv1D."""
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    plain = Tokenizer(models.BPE({letter: number for number, letter in enumerate(alphabet)}, []))
    plain.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    plain.decoder = decoders.ByteLevel()
    torch.manual_seed(0)
    llama = LlamaConfig(
        vocab_size=256, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=64, tie_word_embeddings=False, initializer_range=0.2,
    )  # fmt: skip
    gpt2 = GPT2Config(vocab_size=256, n_embd=24, n_layer=2, n_head=2, n_positions=64, initializer_range=0.2)
    found = {}
    for name, model in {"llama": LlamaForCausalLM(llama), "gpt2": GPT2LMHeadModel(gpt2)}.items():
        found[name] = tmp_path_factory.mktemp("byte-bases") / name
        model.save_pretrained(found[name])
        PreTrainedTokenizerFast(tokenizer_object=plain).save_pretrained(found[name])
    return found


@pytest.fixture(scope="session")
def byte_adapters(byte_bases, make_adapter, tmp_path_factory):
    """Return `{architecture: folder}`: a LoRA of every linear map of each, rank 4."""
    from peft import LoraConfig

    found = {}
    for name, base in byte_bases.items():
        found[name] = tmp_path_factory.mktemp("byte-adapters") / f"{name}-lora"
        config = LoraConfig(r=4, lora_alpha=512, target_modules="all-linear", fan_in_fan_out=name == "gpt2")
        make_adapter(base, found[name], config)
    return found


@pytest.fixture(scope="session")
def texts(tmp_path_factory):
    """Return two text files, one of the task and one to be kept: 1500 and 700 bytes of lines of letters."""
    rng = np.random.default_rng(0)
    folder = tmp_path_factory.mktemp("texts")
    for name, letters, lines in (("task.txt", "abcdef ", 50), ("kept.txt", "uvwxyz ", 25)):
        rows = ("".join(rng.choice(list(letters), 27)) for _ in range(lines))
        (folder / name).write_text("\n".join(rows) + "\n")
    return folder / "task.txt", folder / "kept.txt"
