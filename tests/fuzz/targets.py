"""The readers that are fuzzed, and their known inputs."""

import json
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any, Final

import numpy as np
from safetensors.numpy import save_file

from hiplora.adapters import place, read_adapter
from hiplora.adapters.patterns import match_patterns
from hiplora.card import Card
from hiplora.geometry import Calibration
from hiplora.measures import inspect
from hiplora.sources import BaseModel, open_base
from hiplora.spectrum import BaseSpectra, SpectrumCache
from hiplora.training import Run, drift_history, layer_history, list_runs, score_table, step_table
from hiplora.training.config import RunConfig
from hiplora.training.events import from_json, to_json

_STEP = {"event": "step", "step": 1, "loss": 1.0, "task_loss": 1.0, "penalty": 0.0, "learning_rate": 1e-3,
         "grad_norm": None, "seconds": 1.0, "tokens": 1}  # fmt: skip
_LAYERS = {"event": "layers", "step": 1, "total_relative_norm": 0.1, "shadow_price": [0.5]} | {
    name: [0.5] for name in ("epsilon", "tightness", "principal_norm", "mixed_norm", "residual_norm", "relative_norm")
}
_DRIFT = {"event": "drift", "step": 1, "geometry": "inputs", "text": "a", "relative_norm": 0.1, "pp": 0.2,
          "pp_null": 0.1, "pp_null_low": 0.05, "pp_null_high": 0.15, "enrichment": 2.0}  # fmt: skip
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
_STYLE = "lora_unet_down_0_attn_to_q"
_LOOSE: Final[list[dict[str, list[int]]]] = [
    {f"{_STYLE}.lora_down.weight": [2, 4], f"{_STYLE}.lora_up.weight": [4, 2], f"{_STYLE}.alpha": []},
    {f"{_STYLE}.lora_down.weight": [2, 4, 1, 1], f"{_STYLE}.lora_mid.weight": [2, 2, 3, 3],
     f"{_STYLE}.lora_up.weight": [4, 2, 1, 1]},
    {f"a.hada_{w}_{x}": [4, 2] if x == "a" else [2, 4] for w in ("w1", "w2") for x in "ab"} | {"a.alpha": []},
    {"a.lokr_w1": [2, 2], "a.lokr_w2_a": [2, 2], "a.lokr_w2_b": [2, 2], "b.diff": [4, 4]},
    {"unet.a.to_q.lora_A.weight": [2, 4], "unet.a.to_q.lora_B.weight": [4, 2]},
    {"a.q_proj.lora_a": [4, 2], "a.q_proj.lora_b": [2, 4]},
]  # fmt: skip
_TUNERS: Final[list[dict[str, Any]]] = [
    {"peft_type": "LOHA", "r": 2, "alpha": 4, "rank_pattern": {}, "alpha_pattern": {"q_proj": 2}},
    {"peft_type": "LORA", "r": 2, "lora_alpha": 4, "init_lora_weights": "pissa", "use_dora": False},
    {"peft_type": "IA3", "feedforward_modules": ["q_proj"], "target_modules": ["q_proj"]},
    {"peft_type": "VERA", "r": 2, "save_projection": True},
    {"peft_type": "TRAINABLE_TOKENS", "token_indices": [0, 1]},
]
_INPUTS: Final = {
    "version": 1, "key": "0", "base": "@base", "text": "lines", "tokens": 300, "sequences": 9, "unknown": 0.0,
    "perplexity": 3.5, "doubt": "",
    "maps": {"model.layers.0.self_attn.q_proj": "model.layers.0.self_attn.q_proj"},
    "inputs": {
        "model.layers.0.self_attn.q_proj": {"digest": "0", "error": 0.0, "difference": 0.1, "components": 4},
    },
}  # fmt: skip
_PACKINGS: Final[list[dict[str, Any]]] = [
    {"model_type": "llama", "quantization_config": settings}
    for settings in (
        {"quant_method": "gptq", "bits": 4, "group_size": 8, "checkpoint_format": "gptq", "desc_act": False},
        {"quant_method": "awq", "bits": 4, "group_size": 1, "version": "gemm", "zero_point": True},
    )
]
_MAP: Final = "base_model.model.model.layers.0.self_attn.q_proj"
_TUNER_TENSORS: Final = {
    f"{_MAP}.hada_w1_a": (4, 2), f"{_MAP}.hada_w1_b": (2, 4), f"{_MAP}.hada_w2_a": (4, 2), f"{_MAP}.hada_w2_b": (2, 4),
    f"{_MAP}.lora_A.weight": (2, 4), f"{_MAP}.lora_B.weight": (4, 2), f"{_MAP}.ia3_l": (1, 4),
    f"{_MAP}.vera_lambda_b": (4,), f"{_MAP}.vera_lambda_d": (2,), "base_model.vera_A": (2, 4),
    "base_model.vera_B": (4, 2), "base_model.model.model.embed_tokens.trainable_tokens_delta": (2, 4),
}  # fmt: skip
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
    for table in (step_table, score_table, layer_history, drift_history):
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


@cache
def _small_base(folder: Path) -> BaseModel:
    """Return a base of one map and an embedding."""
    save_file(
        {"model.layers.0.self_attn.q_proj.weight": np.eye(4), "model.embed_tokens.weight": np.eye(4)},
        folder / "model.safetensors",
    )
    (folder / "config.json").write_text(json.dumps({"model_type": "llama"}))
    return BaseModel(folder)


def _loose(content: bytes, folder: Path) -> None:
    """Tensors of other tools by name and shape, all ones."""
    with suppress(ValueError, TypeError, AttributeError):
        shapes = {str(key): tuple(map(int, shape)) for key, shape in json.loads(content).items()}
        if all(0 <= size < 50 for shape in shapes.values() for size in shape) and all(
            len(s) < 6 for s in shapes.values()
        ):
            save_file({key: np.ones(shape, np.float32) for key, shape in shapes.items()}, folder / "x.safetensors")
    if (folder / "x.safetensors").is_file():
        inspect(read_adapter(folder / "x.safetensors"))


def _tuner(content: bytes, folder: Path) -> None:
    """A config of another tuner of PEFT's, put on a base."""
    (folder / "base").mkdir(exist_ok=True)
    (folder / "tuner").mkdir(exist_ok=True)
    base = _small_base(folder / "base")
    if not (folder / "tuner" / "adapter_model.safetensors").is_file():
        tensors = {key: np.ones(shape, np.float32) for key, shape in _TUNER_TENSORS.items()}
        save_file(tensors, folder / "tuner" / "adapter_model.safetensors")
    (folder / "tuner" / "adapter_config.json").write_bytes(content)
    for _, delta in place(base, read_adapter(folder / "tuner")):
        _ = delta.energy


def _index(content: bytes, folder: Path) -> None:
    """The index of a checkpoint in several files."""
    (folder / "index").mkdir(exist_ok=True)
    (folder / "index" / "config.json").write_text(json.dumps({"model_type": "llama"}))
    (folder / "index" / "model.safetensors.index.json").write_bytes(content)
    save_file({"a.weight": np.ones((2, 2))}, folder / "index" / "model-00001-of-00001.safetensors")
    base = BaseModel(folder / "index")
    for weight in base.weights.values():
        base.read(weight)


@cache
def _small_calibration(folder: Path) -> Calibration:
    return Calibration(BaseSpectra(_small_base(folder), SpectrumCache(folder / "cache")), beside=True)


def _inputs(content: bytes, folder: Path) -> None:
    """What a stranger's base brings along of its inputs."""
    (folder / "base" / "inputs").mkdir(parents=True, exist_ok=True)
    calibration = _small_calibration(folder / "base")
    content = content.replace(b"@base", calibration.base_hash.encode())
    (folder / "base" / "inputs" / "inputs.json").write_bytes(content)
    _ = calibration.ready, calibration.name, calibration.notes
    calibration.moments("model.layers.0.self_attn.q_proj")


def _packed(content: bytes, folder: Path) -> None:
    """Integers of GPTQ or AWQ, by the settings of a stranger's config."""
    (folder / "packed").mkdir(exist_ok=True)
    parts = {"qweight": np.zeros((2, 16), np.int32), "qzeros": np.zeros((2, 2), np.int32), "scales": np.ones((2, 16))}
    if not (folder / "packed" / "model.safetensors").is_file():
        save_file({f"a.q_proj.{name}": part for name, part in parts.items()}, folder / "packed" / "model.safetensors")
    (folder / "packed" / "config.json").write_bytes(content)
    base = BaseModel(folder / "packed")
    for weight in base.weights.values():
        base.read(weight)


def _patterns(content: bytes, folder: Path) -> None:
    """Patterns of a stranger's config against names of modules."""
    with suppress(ValueError, TypeError, AttributeError):
        patterns = {str(pattern): 1 for pattern in json.loads(content)}
        match_patterns(patterns, [f"model.layers.{i}.self_attn.q_proj" for i in range(3)], "rank_pattern")


TARGETS: dict[str, tuple[Callable[[bytes, Path], None], list[Any]]] = {
    "event": (_event, [_STEP, _LAYERS, _DRIFT, _SCORES]),
    "card": (_card, [_CARD]),
    "settings": (_settings, [_RUN["config"]]),
    "run": (_run, [_RUN, {"state": "running", "device": 1}]),
    "adapter": (_adapter, [_LORA]),
    "tensors": (_tensors, [_HEADER]),
    "base": (_base, [{"model_type": "llama", "architectures": ["LlamaForCausalLM"], "tie_word_embeddings": True}]),
    "loose": (_loose, _LOOSE),
    "tuner": (_tuner, _TUNERS),
    "index": (_index, [{"metadata": {}, "weight_map": {"a.weight": "model-00001-of-00001.safetensors"}}]),
    "inputs": (_inputs, [_INPUTS]),
    "packed": (_packed, _PACKINGS),
    "patterns": (_patterns, [["q_proj", r".*\.(q|v)_proj", "(a+)+$", r"layers\.[0-9]{1,2}\..*"]]),
    "events": (_events, [_STEP, _LAYERS, _DRIFT, _SCORES]),
}
"""Name -> what is called with each input and a folder to write to, and the inputs known to be good."""
