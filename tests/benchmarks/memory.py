"""Peak memory of the command line on sharded checkpoints of the shape of Llama-3.1-8B, by number of blocks."""

import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import save_file

from tests.benchmarks.matrices import known_weight
from tests.benchmarks.report import Line
from tests.benchmarks.timing import ROOT, paired_ratio

RANK = 16
_PEAK = re.compile(r"peak memory ([\d.]+) (GB|MB)")


@dataclass(frozen=True)
class Shape:
    """Widths of a Llama.

    Attributes:
        scale: by which those of Llama-3.1-8B are divided.
    """

    scale: int = 1

    @property
    def hidden(self) -> int:
        """Size of the hidden state."""
        return 4096 // self.scale

    @property
    def maps(self) -> dict[str, tuple[int, int]]:
        """`{module within a block: (m, n)}`."""
        hidden, mlp, kv = (width // self.scale for width in (4096, 14336, 1024))
        attention = {"q_proj": (hidden, hidden), "k_proj": (kv, hidden), "v_proj": (kv, hidden),
                     "o_proj": (hidden, hidden)}  # fmt: skip
        rest = {"gate_proj": (mlp, hidden), "up_proj": (mlp, hidden), "down_proj": (hidden, mlp)}
        return {f"self_attn.{k}": v for k, v in attention.items()} | {f"mlp.{k}": v for k, v in rest.items()}

    def bytes(self, blocks: int) -> int:
        """Size of the maps of a checkpoint in 16 bits."""
        return 2 * blocks * sum(m * n for m, n in self.maps.values())

    def __str__(self) -> str:
        return "full width" if self.scale == 1 else f"width / {self.scale}"


def memory_lines(blocks: dict[Shape, Sequence[int]], threads: int) -> Iterator[Line]:
    """Yield the comparisons.

    Args:
        blocks: of the checkpoints of each shape, the first being what the others are compared with.
        threads: of the command.
    """
    for shape, counts in blocks.items():
        found = {count: measure(shape, count, threads) for count in counts}
        for command in found[counts[0]][0]:
            for count, (peaks, seconds) in found.items():
                per_block = seconds[command] / count
                largest = 8 * max(m * n for m, n in shape.maps.values())
                first = count == counts[0]
                if first and shape.scale > 1:
                    continue  # the process itself is larger than any of these weights
                peer = largest if first else found[counts[0]][0][command]
                yield Line(
                    "memory",
                    f"hiplora {command}, {count} blocks",
                    "its largest weight in float64" if first else f"{counts[0]} blocks",
                    f"Llama-3.1-8B, {shape}, bf16 shards",
                    "peak RSS",
                    paired_ratio([peaks[command]], [peer]),
                    goal="" if first else "<= 1.1",
                    ours=peaks[command],
                    theirs=peer,
                    note=f"{peaks[command] / 1e6:.0f} and {peer / 1e6:.0f} MB; checkpoint of "
                    f"{shape.bytes(count) / 1e9:.2g} GB; {per_block:.3g} s a block, "
                    f"{32 * per_block / 60:.2g} minutes for 32",
                )


def measure(shape: Shape, blocks: int, threads: int) -> tuple[dict[str, float], dict[str, float]]:
    """Return the peak RSS in bytes of `hiplora svd`, of `analyze` and ways to `merge` after it, and their seconds."""
    with tempfile.TemporaryDirectory(prefix="hiplora-benchmark-") as folder:
        base, adapter, other, cache = (Path(folder) / name for name in ("base", "adapter", "other", "cache"))
        write_checkpoint(base, shape, blocks)
        write_adapter(adapter, shape, blocks, seed=1)
        write_adapter(other, shape, blocks, seed=2)
        both = ["merge", str(base), str(adapter), str(other), "--k", "16"]
        commands = {
            "svd": ["svd", str(base)],
            "analyze": ["analyze", str(base), str(adapter), "--k", "16"],
            "merge": [*both, "--out", f"{folder}/sum"],
            "merge --how core": [*both, "--how", "core", "--out", f"{folder}/core"],
            "merge --how core-space": [*both, "--how", "core-space", "--out", f"{folder}/core-space"],
            "merge --save-model": [*both, "--save-model", "--out", f"{folder}/model"],
        }
        peaks, seconds = {}, {}
        for name, arguments in commands.items():
            start = time.perf_counter()
            peaks[name] = peak_of(arguments, cache, threads)
            seconds[name] = time.perf_counter() - start
        return peaks, seconds


def write_checkpoint(folder: Path, shape: Shape, blocks: int) -> None:
    """Write a checkpoint of one shard a block, with spectra as real ones have.

    The blocks differ in one number: enough to be other weights.
    """
    folder.mkdir()
    weights = {name: torch.from_numpy(known_weight(size, 64).weight).bfloat16() for name, size in shape.maps.items()}
    places = {}
    for block in range(blocks):
        shard = f"model-{block + 1:05d}-of-{blocks:05d}.safetensors"
        named = {f"model.layers.{block}.{name}.weight": weight for name, weight in weights.items()}
        for weight in named.values():
            weight[0, 0] = block / 1024
        save_file(named, folder / shard)
        places |= dict.fromkeys(named, shard)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": places}))
    (folder / "config.json").write_text(json.dumps({"model_type": "llama"}))


def write_adapter(folder: Path, shape: Shape, blocks: int, seed: int) -> None:
    """Write a LoRA on all maps."""
    folder.mkdir()
    torch.manual_seed(seed)
    tensors = {}
    for block in range(blocks):
        for name, (m, n) in shape.maps.items():
            prefix = f"base_model.model.model.layers.{block}.{name}"
            tensors[f"{prefix}.lora_A.weight"] = 0.02 * torch.randn(RANK, n)
            tensors[f"{prefix}.lora_B.weight"] = 0.02 * torch.randn(m, RANK)
    save_file(tensors, folder / "adapter_model.safetensors")
    config = {"peft_type": "LORA", "r": RANK, "lora_alpha": RANK, "base_model_name_or_path": "base"}
    (folder / "adapter_config.json").write_text(json.dumps(config))


def peak_of(arguments: Sequence[str], cache: Path, threads: int) -> float:
    """Return the peak RSS of a command in bytes, as it says itself.

    Args:
        arguments: of `hiplora`.
        cache: for this command.
        threads: of BLAS and torch.
    """
    done = subprocess.run(
        [sys.executable, "-m", "hiplora", *arguments],
        cwd=ROOT,
        env=os.environ | {"HIPLORA_CACHE": str(cache), "OMP_NUM_THREADS": str(threads)},
        capture_output=True,
        text=True,
        check=False,
    )
    found = _PEAK.search(done.stderr)
    if done.returncode or not found:
        raise RuntimeError(f"hiplora {' '.join(arguments)} failed:\n{done.stderr[-2000:]}")
    return float(found[1]) * (1e9 if found[2] == "GB" else 1e6)
