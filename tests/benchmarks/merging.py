"""How exact ways to merge are, ours, PEFT's and mergekit's, for each kind of adapter, and what Core Space saves.

`python -m tests.benchmarks.merging`, or with `--speed` the second alone. mergekit has a row where it is installed.
"""

import copy
import sys
import tempfile
import warnings
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import peft
import torch
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

import hiplora
from hiplora.adapters import DenseDelta, LowRankDelta
from hiplora.errors import HiploraError
from hiplora.merging import WAYS, Site
from hiplora.sources.transformers_models import load_causal_lm
from tests.benchmarks.timing import paired_ratio, race

WIDTH = 64
LLAMA = {
    "lora": lambda: peft.LoraConfig(r=8, lora_alpha=16, target_modules="all-linear"),
    "rslora": lambda: peft.LoraConfig(r=8, lora_alpha=16, use_rslora=True, target_modules="all-linear"),
    "patterns": lambda: peft.LoraConfig(
        r=8,
        lora_alpha=16,
        target_modules="all-linear",
        rank_pattern={"q_proj": 4},
        alpha_pattern={"v_proj": 32},
    ),
    "dora": lambda: peft.LoraConfig(r=8, lora_alpha=16, use_dora=True, target_modules="all-linear"),
    "hiplora": lambda: hiplora.HipLoraConfig(r=7, lora_alpha=14, principal_rank=8, target_modules="all-linear"),
}
KINDS = (*LLAMA, "lora_bias")
OTHER = {"lora": "other", "lora_bias": "lora_bias-2"}


def make(folder: Path) -> None:
    """Write two small bases, a random adapter of each kind, and a second one to add."""
    torch.manual_seed(0)
    sizes = {"hidden_size": WIDTH, "intermediate_size": 2 * WIDTH, "num_hidden_layers": 2, "num_attention_heads": 4}
    LlamaForCausalLM(LlamaConfig(vocab_size=64, **sizes)).save_pretrained(folder / "llama")
    GPT2LMHeadModel(GPT2Config(vocab_size=64, n_embd=WIDTH, n_layer=2, n_head=2)).save_pretrained(folder / "gpt2")
    biased = peft.LoraConfig(r=8, lora_alpha=16, target_modules=["c_attn"], lora_bias=True, fan_in_fan_out=True)
    jobs = [("llama", kind, config()) for kind, config in LLAMA.items()]
    jobs += [("llama", "other", LLAMA["lora"]()), ("gpt2", "lora_bias", biased)]
    jobs += [("gpt2", "lora_bias-2", copy.deepcopy(biased))]
    for seed, (base, name, config) in enumerate(jobs):
        torch.manual_seed(seed)
        model = peft.get_peft_model(load_causal_lm(folder / base), config)
        with torch.no_grad():
            for parameter in filter(lambda each: each.requires_grad, model.parameters()):
                parameter.add_(0.05 * torch.randn_like(parameter))
        model.save_pretrained(folder / name)


def state(model: Any) -> dict[str, np.ndarray]:
    return {name: value.detach().double().numpy().copy() for name, value in model.state_dict().items()}


def merged_by_peft(base: Path, adapter: Path) -> dict[str, np.ndarray]:
    """Return what PEFT adds to each tensor when it merges one adapter, in float64: the yardstick."""
    model = load_causal_lm(base)
    before = state(model)
    after = state(peft.PeftModel.from_pretrained(model, adapter).double().merge_and_unload())
    return {name: after[name] - W0 for name, W0 in before.items()}


def combined_by_peft(base: Path, adapters: list[Path], way: str) -> dict[str, np.ndarray] | str:
    """Return the same of what `add_weighted_adapter` makes of adapters; a word where it refuses."""
    model = load_causal_lm(base)
    before = state(model)
    names = [str(number) for number in range(len(adapters))]
    try:
        model = peft.PeftModel.from_pretrained(model, adapters[0], adapter_name="0")
        for number, adapter in enumerate(adapters[1:], start=1):
            model.load_adapter(adapter, adapter_name=str(number))
        settings = {"density": 1.0} if way in ("ties", "dare_linear", "magnitude_prune") else {}
        model.add_weighted_adapter(names, [1.0] * len(names), "merged", combination_type=way, **settings)
    except (ValueError, NotImplementedError, AttributeError, TypeError, KeyError, RuntimeError) as error:
        print(f"  PEFT {way} of {', '.join(path.name for path in adapters)}: {error}", file=sys.stderr)
        return "refused"
    model.set_adapter("merged")
    after = state(model.double().merge_and_unload(adapter_names=["merged"]))
    return {name: after[name] - W0 for name, W0 in before.items()}


def combined_by_mergekit(base: Path, adapters: list[Path]) -> dict[str, np.ndarray] | str:
    """Return the same of mergekit's task arithmetic of adapters, each on the base; a word where it refuses."""
    from mergekit.config import MergeConfiguration
    from mergekit.merge import run_merge
    from mergekit.options import MergeOptions

    models = [{"model": f"{base}+{adapter}", "parameters": {"weight": 1.0}} for adapter in adapters]
    settings = {"merge_method": "task_arithmetic", "base_model": str(base), "dtype": "float32", "models": models}
    with tempfile.TemporaryDirectory() as name:
        out = Path(name)
        options = MergeOptions(copy_tokenizer=False, write_model_card=False, lora_merge_cache=str(out / "cache"))
        try:
            run_merge(MergeConfiguration.model_validate(settings), str(out / "merged"), options)
        except (ValueError, NotImplementedError, AttributeError, TypeError, KeyError, RuntimeError) as error:
            print(f"  mergekit of {', '.join(path.name for path in adapters)}: {error}", file=sys.stderr)
            return "refused"
        after = state(load_causal_lm(out / "merged"))
    return {key: after[key] - W0 for key, W0 in state(load_causal_lm(base)).items()}


def error(found: dict[str, np.ndarray] | str, expected: dict[str, np.ndarray]) -> str:
    """Return the relative error over all tensors, in words."""
    if isinstance(found, str):
        return found
    off = sum(np.sum((found.get(name, 0) - delta) ** 2) for name, delta in expected.items())
    value = float(np.sqrt(off / sum(np.sum(delta**2) for delta in expected.values())))
    return "exact" if value < 1e-6 else f"{100 * value:.0f} %"


def ours(base: Path, adapters: list[Path], how: str) -> dict[str, np.ndarray] | str:
    """Return what a merge of ours adds to each tensor; a word where it refuses."""
    study = hiplora.open(base, adapters, k=8, epsilon=100.0)
    try:
        merge = study.merged(how, **({} if WAYS[how].density is None else {"density": 1.0}))
    except HiploraError:
        return "refused"
    return {f"{module}.weight": merge.delta(module).dense() for module in merge.modules}


def speed(rank: int = 16, seconds: float = 5.0) -> None:
    """Print how long ways take on whole matrices over that on low-rank ones, for a map of SmolLM2-135M's width."""
    rng, width = np.random.default_rng(0), 576
    low = [[LowRankDelta(rng.normal(size=(width, rank)), rng.normal(size=(rank, width))) for _ in range(2)]]
    print("| way | time in full space over ours | relative difference |\n|---|---|---|")
    for how in ("tsv", "iso-c", "orthogonal", "knots"):
        way, site = WAYS[how], Site("layer", ("a", "b"), density=0.2)
        # Fresh objects: an update keeps its SVD.
        calls = {
            "ours": lambda way=way, site=site: [
                way.merge([LowRankDelta(d.L, d.R) for d in pair], site) for pair in low
            ],
            "full": lambda way=way, site=site: [way.merge([DenseDelta(d.L @ d.R) for d in pair], site) for pair in low],
        }
        times = race(calls, seconds)
        ours, full = calls["ours"](), calls["full"]()
        off = max(np.linalg.norm(a.dense() - b.dense()) / np.linalg.norm(b.dense()) for a, b in zip(ours, full))
        print(f"| `{how}` | {paired_ratio(times['full'], times['ours'])} | {off:.0e} |", flush=True)


def main() -> None:
    """Print the tables as Markdown."""
    warnings.simplefilter("ignore")
    if "--speed" in sys.argv:
        speed()
        return
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make(folder)
        bases = {kind: folder / ("gpt2" if kind.startswith("lora_bias") else "llama") for kind in KINDS}
        single = {kind: merged_by_peft(base, folder / kind) for kind, base in bases.items()}
        second = {each: merged_by_peft(bases[kind], folder / each) for kind, each in OTHER.items()}
        print(f"| one adapter, weight 1 | {' | '.join(KINDS)} |\n|---|{'---|' * len(KINDS)}")
        for how in WAYS:
            row = [error(ours(bases[kind], [folder / kind], how), single[kind]) for kind in KINDS]
            print(f"| `{how}` | {' | '.join(row)} |", flush=True)
        for way in ("linear", "cat", "svd", "ties", "dare_linear", "magnitude_prune"):
            row = [error(combined_by_peft(bases[kind], [folder / kind], way), single[kind]) for kind in KINDS]
            print(f"| PEFT `{way}` | {' | '.join(row)} |", flush=True)
        if find_spec("mergekit"):
            row = [error(combined_by_mergekit(bases[kind], [folder / kind]), single[kind]) for kind in KINDS]
            print(f"| mergekit `task_arithmetic` | {' | '.join(row)} |", flush=True)
        print(f"\n| sum with a LoRA | {' | '.join(KINDS)} |\n|---|{'---|' * len(KINDS)}")
        others = {kind: OTHER.get(kind, "other") for kind in KINDS}
        sums = {
            kind: {name: delta + second[others[kind]][name] for name, delta in single[kind].items()} for kind in KINDS
        }
        row = [error(ours(bases[kind], [folder / kind, folder / others[kind]], "sum"), sums[kind]) for kind in KINDS]
        print(f"| `sum` | {' | '.join(row)} |", flush=True)
        for way in ("linear", "cat", "svd"):
            row = [
                error(combined_by_peft(bases[kind], [folder / kind, folder / others[kind]], way), sums[kind])
                for kind in KINDS
            ]
            print(f"| PEFT `{way}` | {' | '.join(row)} |", flush=True)
        if find_spec("mergekit"):
            row = [
                error(combined_by_mergekit(bases[kind], [folder / kind, folder / others[kind]]), sums[kind])
                for kind in KINDS
            ]
            print(f"| mergekit `task_arithmetic` | {' | '.join(row)} |", flush=True)


if __name__ == "__main__":
    main()
