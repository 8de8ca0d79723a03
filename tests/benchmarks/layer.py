"""A training step, its memory, and merged inference, of single layers and of whole models, against PEFT's methods."""

import json
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import nn

from hiplora.sources import known_bases, open_base
from hiplora.sources.transformers_models import load_causal_lm
from hiplora.training.config import RunConfig
from hiplora.training.methods import find_method, match_parameters
from tests.benchmarks.report import Line
from tests.benchmarks.timing import (
    in_fresh_process,
    keep_freed_memory,
    paired_ratio,
    peak_bytes,
    race,
    reset_peak,
    resident_bytes,
)

SMOLLM2 = "SmolLM2-135M-Instruct"
MODELS = {SMOLLM2: (2, 128), "demo": (64, 32)}
"""Whole models, each with the batch and the tokens of a step."""

TOKENS = 512
"""Rows of the input of a single layer."""

_SMALL = "128"

# The size of a LoRA of rank 8, HiP-LoRA with k = 32; every method gets the ranks that match it within 5 %.
_SETTINGS = RunConfig(base="demo", task="swap", r=8, principal_rank=32)
_PEERS = {
    "LoRA": "lora",
    "DoRA": "dora",
    "OSF, same parameters": "osf",
    "OSF as it comes (half of the directions)": "osf-half",
}
_GOALS = {"LoRA": {"cpu": "<= 1.05", "cuda": "<= 1.10"}, "DoRA": dict.fromkeys(("cpu", "cuda"), "<= 0.75")}
_GOAL_OSF = "<= 0.5"
_GOAL_DEMO = "<= 1.5"


class TwoMaps(nn.Module):
    """Two square linear maps in the middle of a network: the gradient of the input is wanted too."""

    def __init__(self, width: int):
        super().__init__()
        self.up = nn.Linear(width, width, bias=False)
        self.down = nn.Linear(width, width, bias=False)

    def forward(self, x: torch.Tensor) -> SimpleNamespace:
        return SimpleNamespace(loss=self.down(nn.functional.silu(self.up(x))).square().mean())


def layer_lines(widths: Sequence[int], models: Sequence[str], seconds: float, rounds: int, threads: int,
                left_out: list[str]) -> Iterator[Line]:  # fmt: skip
    """Yield the comparisons.

    Args:
        widths: of single layers.
        models: of `MODELS`.
        seconds: of timing for each.
        rounds: fresh processes for each peak of memory; 0 for none.
        threads: of torch on the CPU.
        left_out: what cannot be measured here is added to it.
    """
    keep_freed_memory()
    devices = ["cpu", "cuda"] if torch.cuda.is_available() else ["cpu"]
    if "cuda" not in devices:
        left_out.append("all rows on a GPU: there is none here.")
    installed = {base.name for base in known_bases()}
    targets = [str(width) for width in widths] + [model for model in models if model in installed]
    left_out += [f"{model}: its package is not installed." for model in models if model not in installed]
    for device in devices:
        for target in targets:
            yield from _time_lines(target, device, seconds)
            if rounds:
                yield from _memory_lines(target, device, rounds, threads)


def _time_lines(target: str, device: str, seconds: float) -> Iterator[Line]:
    methods = {"ours": "hiplora", **_PEERS}
    built = {name: build(target, key, device) for name, key in methods.items()}
    times = race({name: stepper(model, target, device) for name, model in built.items()}, seconds, least=5, warm_up=2)
    sizes = {name: sum(p.numel() for p in model.parameters() if p.requires_grad) for name, model in built.items()}
    for peer in _PEERS:
        yield Line(
            "layer",
            "HiP-LoRA, training step",
            peer,
            _size(target, device),
            "time, ours / peer",
            paired_ratio(times["ours"], times[peer]),
            goal=_goal(target, peer, device),
            ours=float(np.median(times["ours"])),
            theirs=float(np.median(times[peer])),
            note=f"{sizes['ours']:,} and {sizes[peer]:,} parameters trained",
        )
    merged, base = built["ours"].merge_and_unload(), _base(target, device)
    calls = {"ours": _inference(merged, target, device), "base": _inference(base, target, device)}
    times = race(calls, seconds / 2, least=5, warm_up=2)
    yield Line(
        "layer",
        "HiP-LoRA merged, forward",
        "base",
        _size(target, device),
        "time, ours / peer",
        paired_ratio(times["ours"], times["base"]),
        ours=float(np.median(times["ours"])),
        theirs=float(np.median(times["base"])),
    )


def _memory_lines(target: str, device: str, rounds: int, threads: int) -> Iterator[Line]:
    # OSF takes minutes to decompose every map of a whole model, in each process anew.
    peers = {name: key for name, key in _PEERS.items() if target not in MODELS or not key.startswith("osf")}
    peaks: dict[str, list[float]] = {name: [] for name in ("ours", *peers)}
    for _ in range(rounds):
        for name, key in {"ours": "hiplora", **peers}.items():
            found = in_fresh_process("tests.benchmarks.layer", target, key, device, threads=threads)
            peaks[name].append(found["peak"])
    for peer in peers:
        yield Line(
            "layer",
            "HiP-LoRA, training step",
            peer,
            _size(target, device),
            "peak memory, ours / peer",
            paired_ratio(peaks["ours"], peaks[peer]),
            goal=_goal(target, peer, device) if peer == "LoRA" and target != "demo" else "",
            ours=float(np.median(peaks["ours"])),
            theirs=float(np.median(peaks[peer])),
            note=f"{np.median(peaks['ours']) / 1e6:.0f} and {np.median(peaks[peer]) / 1e6:.0f} MB above the imports",
        )


def _goal(target: str, peer: str, device: str) -> str:
    if target == "demo":
        return _GOAL_DEMO if peer == "LoRA" else ""
    return _GOAL_OSF if peer.startswith("OSF") else _GOALS[peer][device]


def _size(target: str, device: str) -> str:
    if target in MODELS:
        batch, length = MODELS[target]
        return f"{target}, {batch} x {length} tokens, {device}"
    return f"two maps {target} x {target}, {TOKENS} rows, {device}"


def build(target: str, method: str, device: str) -> Any:
    """Return a model with an adapter of the method on all its linear maps.

    Args:
        target: a width, or one of `MODELS`.
        method: a key of `hiplora.training.METHODS`, `osf` or `osf-half`.
        device: `cpu` (float32) or `cuda` (bfloat16).
    """
    from peft import OSFConfig, get_peft_model

    model = _base(target, device)
    shapes = {
        name: (module.out_features, module.in_features)
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and not name.endswith("lm_head")
    }
    if method.startswith("osf"):
        # OSF trains what it does not preserve: `min(m, n) - effective_rank` directions.
        kept = {name: min(shape) - _SETTINGS.r for name, shape in shapes.items()} if method == "osf" else {}
        leaves = sorted({name.rpartition(".")[2] for name in shapes})
        return get_peft_model(model, OSFConfig(target_modules=leaves, rank_pattern=kept)).train()
    found = find_method(method)
    config = found.peft_config(_SETTINGS, match_parameters(found, shapes, _SETTINGS).ranks)
    if target not in MODELS:
        config.task_type = None
    return get_peft_model(model, config).train()


def _base(target: str, device: str) -> Any:
    torch.manual_seed(0)
    model = load_causal_lm(open_base(target).path, dtype=torch.float32) if target in MODELS else TwoMaps(int(target))
    return model.to(device, torch.bfloat16 if device == "cuda" else torch.float32)


def _batch(target: str, device: str) -> dict[str, torch.Tensor]:
    rng = torch.Generator().manual_seed(0)
    if target not in MODELS:
        x = torch.randn(TOKENS, int(target), generator=rng)
        return {"x": x.to(device, torch.bfloat16 if device == "cuda" else torch.float32)}
    tokens = torch.randint(5, 40, MODELS[target], generator=rng).to(device)
    return {"input_ids": tokens, "labels": tokens}


def stepper(model: Any, target: str, device: str) -> Callable[[], None]:
    """Return a call that does one step: forward, backward, update."""
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-5)
    batch = _batch(target, device)
    if "x" in batch:
        batch["x"].requires_grad_()

    def step() -> None:
        with _precision(device):
            loss = model(**batch).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        if "x" in batch:
            batch["x"].grad = None
        _wait(device)

    return step


def _inference(model: Any, target: str, device: str) -> Callable[[], None]:
    batch = _batch(target, device)
    model.eval()

    @torch.no_grad()
    def forward() -> None:
        with _precision(device):
            model(**batch)
        _wait(device)

    return forward


def _precision(device: str) -> Any:
    return torch.autocast("cuda", torch.bfloat16) if device == "cuda" else nullcontext()


def _wait(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def peak_of_a_step(target: str, method: str, device: str) -> int:
    """Return the bytes that model, adapter, optimiser and a step take at their peak; in a process of its own."""
    # What is loaded or reserved once, whatever the size, happens here.
    stepper(build(_SMALL, method, device), _SMALL, device)()
    before = resident_bytes()
    step = stepper(build(target, method, device), target, device)
    step()
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        step()
        return int(torch.cuda.max_memory_allocated())
    reset_peak()
    step()
    return peak_bytes() - before


if __name__ == "__main__":
    print(json.dumps({"peak": peak_of_a_step(*sys.argv[1:4])}))
