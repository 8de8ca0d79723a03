"""PEFT's LoRA and rsLoRA folders: linear maps, convolutions, embeddings and experts."""

import math
import re
from functools import cached_property
from pathlib import Path
from typing import Any, Final

import numpy as np

from hiplora.adapters.adapter import Adapter
from hiplora.adapters.delta import Delta, LowRankDelta
from hiplora.adapters.patterns import match_patterns
from hiplora.errors import HiploraError
from hiplora.files import TensorSource
from hiplora.sources import strip_peft_prefix

# PEFT 0.3 and older wrote the adapter's name between the two.
_KEY = re.compile(
    r"^(?P<module>.+)\.(?:(?P<factor>lora_[AB])\.(?:(?P<name>[^.]+)\.)?weight|lora_embedding_(?P<side>[AB])(?:\.[^.]+)?)$"
)
_COPIES = re.compile(r"\.(?:modules_to_save|original_module)\.")
_LAYER = re.compile(r"\b(layers|layer|h)\.(\d+)\.")
_EXPERT = re.compile(r"(?P<parameter>.+)\[(?P<expert>\d+)\]")
_EXPERT_PARAMETERS = ("gate_up_proj", "down_proj")
"""Parameters of transformers' experts, in the order in which their modules define them and PEFT wraps them."""
_WRAPPED = ".base_layer"
_MOST_LAYERS = 10_000
DEFAULTS: Final = {"r": 8, "lora_alpha": 8}
"""PEFT's own, for a config that does not say."""
_NO_UPDATE: Final = {
    "use_qalora": "adds to a quantized base what PEFT cannot merge into one",
    "arrow_config": "chooses between adapters by the input, so it is not an update of the weights",
    "enable_lora": "is of PEFT before version 0.3, which merged three maps into one: save it again with a newer one",
}
"""Settings of a LoRA that is not read -> why, as a clause."""
KNOWN_FIELDS: Final = frozenset(
    [
        "alora_invocation_tokens", "alpha_pattern", "arrow_config", "auto_mapping", "base_model_name_or_path", "bias",
        "corda_config", "enable_lora", "ensure_weight_tying", "eva_config", "exclude_modules", "fan_in_fan_out",
        "inference_mode", "init_lora_weights", "kasa_config", "layer_replication", "layers_pattern",
        "layers_to_transform", "loftq_config", "lora_alpha", "lora_bias", "lora_dropout", "lora_ga_config",
        "megatron_config", "megatron_core", "merge_weights", "modules_to_save", "monteclora_config", "peft_type",
        "peft_version", "qalora_group_size", "r", "rank_pattern", "revision", "runtime_config", "target_modules",
        "target_parameters", "task_type", "trainable_token_indices", "use_bdlora", "use_dora", "use_qalora",
        "use_rslora", "velora_config",
    ]
)  # fmt: skip
"""The settings of `peft.LoraConfig`, and two of its oldest versions."""


class LoraAdapter(Adapter):
    """`dW = scaling * B A` with `scaling = alpha / r`, or `alpha / sqrt(r)` for rsLoRA.

    Raises:
        HiploraError: the folder holds a variant with another formula.
    """

    _last: tuple[tuple[str, ...], tuple[np.ndarray, np.ndarray]] = ((), (np.empty(0), np.empty(0)))

    @classmethod
    def reads(cls, config: dict[str, Any], tensors: TensorSource, folder: Path) -> bool:
        """Return whether PEFT calls it a LoRA."""
        return str(config.get("peft_type", "")).upper() == "LORA"

    @property
    def method(self) -> str:  # type: ignore[override]
        """`LoRA` or `rsLoRA`."""
        return "rsLoRA" if self.config.get("use_rslora") else "LoRA"

    @property
    def initialization(self) -> str:
        """PEFT's `init_lora_weights`, in lower case."""
        return str(self.config.get("init_lora_weights", "")).lower()

    def _find_keys(self) -> dict[str, dict[str, str]]:
        if self.initialization.startswith("loftq"):
            raise HiploraError(
                f"{self.path} was initialized by {self.initialization}, which changes the base too, by quantizing it, "
                "so its update of the original base is not known: pass an adapter with another initialization."
            )
        for flag, reason in _NO_UPDATE.items():
            if self.config.get(flag):
                raise HiploraError(f"{self.path} uses {flag}, which {reason}.")
        keys: dict[str, dict[str, str]] = {}
        names: dict[str, str] = {}
        self._empty: list[str] = []
        for match in (_KEY.match(key) for key in self.tensors.shapes):
            if match is None or _COPIES.search(match.string):
                continue
            names.setdefault(match["name"] or "", match.string)
            shape = self.tensors.shapes[match.string]
            if len(shape) < 2 and 0 not in shape:
                raise HiploraError(
                    f"{self.tensors.name}: {match.string} has {len(shape)} dimensions where a factor has two: save the "
                    "adapter again."
                )
            if 0 in shape:
                self._empty.append(match.string)
            else:
                factor = match["factor"] or f"embedding_{match['side']}"
                keys.setdefault(strip_peft_prefix(match["module"]), {})[factor] = match.string
        names = {name: key for name, key in names.items() if name or "lora_embedding" not in key}
        if len(names) > 1:
            first, second, *_ = (name or "one without a name" for name in names)
            raise HiploraError(
                f"{self.tensors.name} holds {len(names)} adapters, {first} and {second}: save each in a folder of its "
                "own."
            )
        if self._empty and not keys:
            raise HiploraError(
                f"{self.tensors.name} holds empty tensors only, as a save under DeepSpeed ZeRO-3 without gathering "
                "leaves them: save the adapter again with stage3_gather_16bit_weights_on_model_save."
            )
        return self._with_experts(keys)

    def _with_experts(self, keys: dict[str, dict[str, str]]) -> dict[str, dict[str, str]]:
        """Return the keys with one module for each expert of a parameter that `target_parameters` names.

        PEFT wraps the parameters of one module in the order in which the module defines them, the first innermost.
        """
        targets = self.config.get("target_parameters")
        named = [str(target).rpartition(".") for target in targets] if isinstance(targets, list) else []
        found: dict[str, dict[str, str]] = {}
        for module, tensors in keys.items():
            owner = module
            while owner.endswith(_WRAPPED):
                owner = owner.removesuffix(_WRAPPED)
            leaves = {leaf for home, _, leaf in named if leaf != "weight" and _is_at(owner, home)}
            if not leaves:
                found[module] = tensors
                continue
            depth = module.count(_WRAPPED) - owner.count(_WRAPPED)
            order = sorted(leaves, key=lambda leaf: (*_EXPERT_PARAMETERS, leaf).index(leaf))
            if (len(leaves) > 1 and not leaves <= set(_EXPERT_PARAMETERS)) or depth >= len(order):
                raise HiploraError(
                    f"{self.path}: it is not known in which order PEFT wrapped the parameters {', '.join(order)} of "
                    f"{owner}: adapt one of them only, or gate_up_proj and down_proj."
                )
            parameter = f"{owner}.{order[len(order) - 1 - depth]}"
            rank = self._rank(parameter)
            count, rest = divmod(self.tensors.shapes[tensors.get("lora_A", "")][0] if "lora_A" in tensors else 0, rank)
            if count < 1 or rest:
                raise HiploraError(
                    f"{self.tensors.name}: the factors of {parameter} do not hold a whole number of experts at "
                    f"r={rank}: save the adapter again."
                )
            found |= {f"{parameter}[{expert}]" if count > 1 else parameter: tensors for expert in range(count)}
        return found

    def _shape(self, module: str) -> tuple[int, int]:
        # A convolution counts as out x (in times its kernel).
        shapes = self.tensors.shapes
        if self._is_embedding(module):
            return shapes[self._key(module, "embedding_A")][-1], shapes[self._key(module, "embedding_B")][0]
        return shapes[self._key(module, "lora_B")][0], math.prod(shapes[self._key(module, "lora_A")][1:])

    def original(self, module: str) -> str:
        """Return the name in the base: with `layer_replication`, that of the layer that was copied."""
        copied, match = self._copied_layers, _LAYER.search(module)
        if not copied or match is None:
            return module
        if int(match[2]) >= len(copied):
            raise HiploraError(
                f"{self.path / 'adapter_config.json'}: layer_replication makes {len(copied)} layers, and {module} is "
                "of none of them: save the adapter again."
            )
        return f"{module[: match.start(2)]}{copied[int(match[2])]}{module[match.end(2) :]}"

    @cached_property
    def _copied_layers(self) -> list[int]:
        """The base's layer behind each layer, with `layer_replication`; empty without."""
        ranges = self.config.get("layer_replication") or []
        try:
            copies = [range(int(start), int(end)) for start, end in ranges]
            if sum(map(len, copies)) > _MOST_LAYERS:
                raise ValueError
            found = [layer for each in copies for layer in each]
        except (TypeError, ValueError, OverflowError):
            raise HiploraError(
                f"{self.path / 'adapter_config.json'}: layer_replication must be a list of [start, end] with at "
                f"most {_MOST_LAYERS} layers in all, got {str(ranges)[:60]}."
            ) from None
        return found

    def _is_embedding(self, module: str) -> bool:
        return "embedding_A" in self._keys[module]

    def _rank(self, module: str) -> int:
        """Return the configured `r` of a module."""
        expert = _EXPERT.fullmatch(module)
        rank = self._setting("r", "rank_pattern", expert["parameter"] if expert else module, DEFAULTS["r"])
        if rank < 1 or rank != int(rank):
            raise HiploraError(f"{self.path / 'adapter_config.json'}: r must be a positive integer, got {rank!r}.")
        return int(rank)

    @cached_property
    def _matches(self) -> dict[str, dict[str, tuple[str, Any] | None]]:
        """Results of `match_patterns` so far, by field."""
        return {}

    def scale(self, module: str) -> float | None:
        """Return the factor of `B A`."""
        if module not in self._keys:
            return None
        A = self.tensors.shapes[self._key(module, "embedding_A" if self._is_embedding(module) else "lora_A")]
        expert = _EXPERT.fullmatch(module)
        return self.scaling(module, self._rank(module) if expert else A[0])

    def scaling(self, module: str, r: int) -> float:
        """Return the factor of `B A`: `alpha / r`, or `alpha / sqrt(r)` for rsLoRA."""
        alpha = self._setting("lora_alpha", "alpha_pattern", module, DEFAULTS["lora_alpha"])
        return alpha / (math.sqrt(r) if self.config.get("use_rslora") else r)

    def _setting(self, name: str, pattern_name: str, module: str, missing: float) -> float:
        """Return a setting of one module: the value of the first pattern that matches it, else the field itself."""
        patterns, default = self.config.get(pattern_name) or {}, self.config.get(name, missing)
        try:
            expert = _EXPERT.fullmatch(module)
            found = self._match(pattern_name, patterns, expert["parameter"] if expert else module)
            value = float(found[1] if found else default)
            if not math.isfinite(value):
                raise ValueError
            return value
        except HiploraError as error:
            raise HiploraError(f"{self.path}: {error}") from None
        except (TypeError, ValueError, AttributeError, OverflowError):
            raise HiploraError(
                f"{self.path / 'adapter_config.json'}: {name} must be a number and {pattern_name} an object of "
                f"numbers, got {default!r} and {patterns!r}."
            ) from None

    def _delta(self, module: str, weight: np.ndarray | None) -> Delta:
        """Return `scaling * B A`, (m, n) out x in; PEFT stores both factors this way for Conv1D too."""
        A, B = self._factors(module, self.tensors)
        return LowRankDelta(self.scaling(module, A.shape[0]) * B, A)

    def _match(self, field: str, patterns: Any, module: str) -> tuple[str, Any] | None:
        """Return the first matching pattern of a field and its value; all modules are matched at once."""
        if field not in self._matches:
            self._matches[field] = {}
        known = self._matches[field]
        if module not in known:
            every = {module, *getattr(self, "modules", ())}
            names = list(dict.fromkeys(expert["parameter"] if (expert := _EXPERT.fullmatch(m)) else m for m in every))
            known |= dict.fromkeys(names) | match_patterns(patterns, names, field)
        return known[module]

    def _factors(self, module: str, tensors: TensorSource) -> tuple[np.ndarray, np.ndarray]:
        """Return `A` (r, n) and `B` (m, r)."""
        if self._is_embedding(module):
            # PEFT adds (B A)^T to an embedding, which is vocabulary x size.
            B, A = (factor.T for factor in self._read([self._key(module, f"embedding_{s}") for s in "AB"], tensors))
        else:
            A, B = self._both(module, tensors)
        if A.ndim > 2 and A.ndim == B.ndim and math.prod(B.shape[2:]) == 1:
            A, B = A.reshape(len(A), -1), B.reshape(B.shape[:2])
        if A.ndim != 2 or B.ndim != 2 or A.shape[0] != B.shape[1]:
            raise HiploraError(
                f"{tensors.name}: the factors of {module} are {B.shape} and {A.shape}, which do not multiply: save the "
                "adapter again."
            )
        expert = _EXPERT.fullmatch(module)
        if expert is None:
            return A, B
        number, rank = int(expert["expert"]), self._rank(expert["parameter"])
        stacked = B.reshape(len(B), rank, -1)
        return A.reshape(stacked.shape[2], rank, -1)[number], stacked[:, :, number]

    def _both(self, module: str, tensors: TensorSource) -> tuple[np.ndarray, np.ndarray]:
        """Return `A` and `B` as they lie in the file; those read last are kept, since all experts share them."""
        keys = (tensors.name, self._key(module, "lora_A"), self._key(module, "lora_B"))
        if _EXPERT.fullmatch(module) is None:
            A, B = self._read(keys[1:], tensors)
            return A, B
        if self._last[0] != keys:
            A, B = self._read(keys[1:], tensors)
            self._last = keys, (A, B)
        return self._last[1]

    def _own_caveats(self) -> list[str]:
        caveats = []
        if self._empty:
            caveats.append(
                f"{len(self._empty)} of its tensors are empty ({strip_peft_prefix(self._empty[0])}), as a save under "
                "DeepSpeed ZeRO-3 leaves them: their modules are left out."
            )
        unknown = sorted(set(self.config) - KNOWN_FIELDS)
        if unknown:
            caveats.append(f"adapter_config.json has settings that PEFT does not have: {', '.join(unknown[:5])}.")
        shapes = self.tensors.shapes
        sizes = {
            module: (shapes[self._key(module, "lora_A")], shapes[self._key(module, "lora_B")])
            for module in self._keys
            if not self._is_embedding(module) and _EXPERT.fullmatch(module) is None
        }
        others = {m: a[0] for m, (a, b) in sizes.items() if a[0] not in (self._rank(m), min(*a[1:], b[0]))}
        if others:
            module, rank = next(iter(others.items()))
            caveats.append(
                f"adapter_config.json says r = {self._rank(module)}, and the factors of {len(others)} modules have "
                f"another ({module}: {rank}), by which alpha is divided here; PEFT would not load it."
            )
        wide = [m for m, (a, b) in sizes.items() if len(a) == len(b) == 2 and a[0] > min(a[1], b[0])]
        if wide:
            caveats.append(
                f"r is larger than the layer in {len(wide)} modules ({wide[0]}): the rank beyond it does nothing."
            )
        if self.config.get("alora_invocation_tokens"):
            caveats.append("It is an aLoRA: its update acts on the tokens from the invocation sequence on only.")
        if self.config.get("lora_bias"):
            caveats.append("lora_bias is on: the biases of B are not in these numbers.")
        return caveats


def _is_at(module: str, home: str) -> bool:
    return module == home or module.endswith(f".{home}")
