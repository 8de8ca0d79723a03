"""The readers that are fuzzed, their known inputs, and the loop that mutates these.

A fault is an exception that the reader does not promise, an input of more than five seconds, or a peak of more than
256 MiB over the campaign.
"""

import importlib
import json
import random
import resource
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

from hiplora.adapters import read_adapter
from hiplora.card import Card
from hiplora.errors import HiploraError
from hiplora.sources import open_base
from hiplora.training import Run, layer_history, list_runs, score_table, step_table
from hiplora.training.config import RunConfig
from hiplora.training.events import from_json, to_json

SLOWEST = 5.0
MEMORY = 256 * 2**20
_ODD = (
    None,
    True,
    -1,
    0,
    10**400,
    1e308,
    float("nan"),
    "",
    "²",
    "=cmd|",
    "\x1b[2J",
    [],
    {},
    [None],
    {"a": []},
    "9" * 5000,
)

_STEP = {"event": "step", "step": 1, "loss": 1.0, "task_loss": 1.0, "penalty": 0.0, "learning_rate": 1e-3,
         "grad_norm": None, "seconds": 1.0, "tokens": 1}  # fmt: skip
_LAYERS = {"event": "layers", "step": 1, "total_relative_norm": 0.1, "shadow_price": [0.5]} | {
    name: [0.5] for name in ("epsilon", "tightness", "principal_norm", "mixed_norm", "residual_norm", "relative_norm")
}
_SCORES = {"event": "scores", "step": 1, "task_score": 0.5, "retention": 0.9, "skills": {"a": 0.5}, "loss": 1.0}
_RUN = {"config": {"base": "demo", "task": "swap", "steps": 4, "epsilon_pattern": {}}, "modules": ["layers.0.q"]}
_LORA = {"peft_type": "LORA", "r": 2, "lora_alpha": 4, "target_modules": ["q_proj"], "rank_pattern": {"q_proj": 2},
         "alpha_pattern": {"q_proj": 4}, "use_rslora": False, "use_dora": False, "fan_in_fan_out": False,
         "base_model_name_or_path": "demo", "modules_to_save": None, "bias": "none"}  # fmt: skip
_Q = "base_model.model.model.layers.0.self_attn.q_proj"
_HEADER = {
    f"{_Q}.lora_A.weight": {"dtype": "F32", "shape": [2, 4], "data_offsets": [0, 32]},
    f"{_Q}.lora_B.weight": {"dtype": "F32", "shape": [4, 2], "data_offsets": [32, 64]},
}
_CARD = {"task": "swap", "method": "lora", "seed": 1, "skills": {"a": 0.5}, "shadow_prices": {"q": 1.0}, "more": 1}


def _event(content: bytes, folder: Path) -> None:
    with suppress(ValueError):
        json.dumps(to_json(from_json(json.loads(content))), allow_nan=False)


def _card(content: bytes, folder: Path) -> None:
    (folder / "card.json").write_bytes(content)
    Card.read(folder)


def _settings(content: bytes, folder: Path) -> None:
    with suppress(ValueError):
        RunConfig.from_dict(json.loads(content))


def _run(content: bytes, folder: Path) -> None:
    (folder / "run").mkdir(exist_ok=True)
    (folder / "run" / "events.jsonl").write_text(f"{json.dumps(_LAYERS)}\n")
    (folder / "run" / "run.json").write_bytes(content)
    (folder / "run" / "status.json").write_bytes(content)
    for run in list_runs(folder):
        _ = run.status, run.checkpoints
        layer_history([run])


def _events(content: bytes, folder: Path) -> None:
    (folder / "run").mkdir(exist_ok=True)
    (folder / "run" / "run.json").write_text(json.dumps(_RUN))
    (folder / "run" / "events.jsonl").write_bytes(content + b"\n")
    for table in (step_table, score_table, layer_history):
        table([Run(folder / "run")])


def _adapter(content: bytes, folder: Path) -> None:
    if not (folder / "adapter_model.safetensors").is_file():
        factors = {f"{_Q}.lora_A.weight": np.ones((2, 4)), f"{_Q}.lora_B.weight": np.ones((4, 2))}
        save_file(factors, folder / "adapter_model.safetensors")
    (folder / "adapter_config.json").write_bytes(content)
    update = read_adapter(folder)
    for module in update.modules:
        update.delta(module)


def _tensors(content: bytes, folder: Path) -> None:
    (folder / "adapter_config.json").write_text(json.dumps(_LORA))
    header = len(content).to_bytes(8, "little") + content
    (folder / "adapter_model.safetensors").write_bytes(header + bytes(64))
    update = read_adapter(folder)
    for module in update.modules:
        update.delta(module)


def _base(content: bytes, folder: Path) -> None:
    if not (folder / "model.safetensors").is_file():
        save_file({"model.layers.0.self_attn.q_proj.weight": np.ones((4, 4))}, folder / "model.safetensors")
    (folder / "config.json").write_bytes(content)
    base = open_base(str(folder))
    for weight in base.weights.values():
        base.read(weight)


TARGETS: dict[str, tuple[Callable[[bytes, Path], None], list[Any]]] = {
    "event": (_event, [_STEP, _LAYERS, _SCORES]),
    "card": (_card, [_CARD]),
    "settings": (_settings, [_RUN["config"]]),
    "run": (_run, [_RUN, {"state": "running", "device": 1}]),
    "adapter": (_adapter, [_LORA]),
    "tensors": (_tensors, [_HEADER]),
    "base": (_base, [{"model_type": "llama", "architectures": ["LlamaForCausalLM"], "tie_word_embeddings": True}]),
    "events": (_events, [_STEP, _LAYERS, _SCORES]),
}


def _mutated(value: Any, choose: random.Random) -> bytes:
    """Return a known JSON value with some entries replaced or removed, and sometimes some bytes changed."""
    value = json.loads(json.dumps(value))
    for _ in range(choose.randint(0, 3)):
        at = value
        while isinstance(at, dict | list) and at:
            key = choose.choice(list(at)) if isinstance(at, dict) else choose.randrange(len(at))
            if isinstance(at[key], dict | list) and at[key] and choose.random() < 0.6:
                at = at[key]
                continue
            if choose.random() < 0.2:
                del at[key]
            else:
                at[key] = choose.choice(_ODD)
            break
    content = bytearray(json.dumps(value).encode())
    if choose.random() < 0.3:
        for _ in range(choose.randint(1, 4)):
            content[choose.randrange(len(content))] = choose.randrange(256)
    return bytes(content[: choose.randrange(len(content))] if choose.random() < 0.05 else content)


def campaign(name: str, inputs: int, seed: int = 0) -> str:
    """Run a target on mutated inputs, and return the figures in words.

    Raises:
        AssertionError: a fault, with the input.
    """
    target, known = TARGETS[name]
    choose, start, slowest = random.Random(seed), time.perf_counter(), 0.0
    with tempfile.TemporaryDirectory() as folder:
        # Their import is not a part of the first input that needs them.
        importlib.import_module("transformers.models.auto.modeling_auto")
        importlib.import_module("peft")

        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        for _ in range(inputs):
            content, begun = _mutated(choose.choice(known), choose), time.perf_counter()
            try:
                target(content, Path(folder))
            except HiploraError:
                pass
            except Exception as error:
                raise AssertionError(f"{name}: {type(error).__name__} from {content[:600]!r}") from error
            slowest = max(slowest, time.perf_counter() - begun)
            assert slowest < SLOWEST, f"{name}: {slowest:.1f} s for {content[:600]!r}"
        grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 - before
    assert grown < MEMORY, f"{name}: {grown / 2**20:.0f} MiB more"
    seconds = time.perf_counter() - start
    return (
        f"{name}: {inputs:,} inputs, {inputs / seconds:,.0f} a second, slowest {slowest * 1e3:.0f} ms, "
        f"{grown / 2**20:.0f} MiB more"
    )
