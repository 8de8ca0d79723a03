"""Adapters of any tuner that PEFT can merge: PEFT puts each on one weight at a time, and merges it there."""

import re
import warnings
from collections.abc import Callable, Collection, Mapping
from functools import cache, cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

import numpy as np

from hiplora.adapters.adapter import Adapter
from hiplora.adapters.delta import Delta, DenseDelta
from hiplora.adapters.initialized import INITIAL_FILE
from hiplora.adapters.patterns import match_patterns
from hiplora.adapters.tuners import TUNERS, Tuner
from hiplora.errors import HiploraError
from hiplora.files import TensorSource, require_finite
from hiplora.sources import PEFT_PREFIX, strip_peft_prefix

if TYPE_CHECKING:
    import torch
    from peft import PeftConfig, PeftModel

_T = TypeVar("_T")
_LORA: Final = Tuner("LoRA", "lora_")
_VARIANTS: Final = {"kasa_config": "KaSA", "use_bdlora": "BD-LoRA"}
"""Settings of `peft.LoraConfig` that change its formula -> the method's name."""
_FROM_THE_WEIGHT: Final = {"pissa": "PiSSA", "olora": "OLoRA"}
"""Initializations that PEFT repeats from the weight, to the same result, whenever it loads an adapter."""
_LARGEST: Final = "largest"
"""Name of a map as large as the largest, beside the one that is merged."""
_LOOKS_AT_VALUES: Final = ("BOFT", "SHIRA")
"""Tuners that cannot be put on a weight without data."""
_LEFT_OUT: Final = frozenset(
    [
        "auto_mapping", "base_model_name_or_path", "corda_config", "eva_config", "exclude_modules",
        "layer_replication", "layers_pattern", "layers_to_transform", "loftq_config", "lora_ga_config",
        "megatron_config", "megatron_core", "modules_to_save", "monteclora_config", "peft_type", "peft_version",
        "revision", "runtime_config", "target_modules", "target_parameters", "task_type", "trainable_token_indices",
        "velora_config",
    ]
)  # fmt: skip
"""Settings that choose modules, name files or code, or matter in training only."""
_PATTERNS: Final = {
    "rank_pattern": ("r", "effective_rank"),
    "alpha_pattern": ("alpha", "lora_alpha"),
    "lambda_pattern": ("delora_lambda",),
    "n_frequency_pattern": ("n_frequency",),
    "block_size_pattern": ("block_size",),
}
"""Settings by pattern -> the field that they replace, the first that the method has."""
_MOST: Final = 1_000_000
"""Largest number accepted in a setting, so that a config cannot ask for all memory."""


class PeftAdapter(Adapter):
    """`dW = merged - W0`, as PEFT merges the adapter into one weight, in float64.

    Nothing of the method is repeated here, so every tuner of `tuners.TUNERS` is read by PEFT's own formula, and so are
    the variants of LoRA that depend on the weight: KaSA, BD-LoRA, DoRA on embeddings, and PiSSA and OLoRA, with or
    without DoRA, whose initial factors were not kept.

    Raises:
        HiploraError: a setting is missing or out of range, or the file lacks tensors that all modules share.
    """

    def __init__(self, path: Path, config: dict[str, Any], tensors: TensorSource, home: Path | None = None):
        self._type = str(config.get("peft_type", "")).upper()
        self._tuner = TUNERS.get(self._type, _LORA)
        self._misfits: dict[tuple[str, tuple[int, ...]], str | None] = {}
        super().__init__(path, config, tensors, home)

    @classmethod
    def reads(cls, config: dict[str, Any], tensors: TensorSource, folder: Path) -> bool:
        """Return whether it is of another tuner than LoRA, or of a LoRA that depends on the weight."""
        kind = str(config.get("peft_type", "")).upper()
        if kind != "LORA":
            return kind in TUNERS
        from_weight = _from_the_weight(config)
        dora = bool(config.get("use_dora"))
        embeddings = any("lora_embedding_A" in key for key in tensors.shapes)
        return (
            any(config.get(flag) for flag in _VARIANTS)
            or (from_weight is not None and (dora or not (folder / INITIAL_FILE).is_file()))
            or (dora and embeddings)
        )

    @property
    def method(self) -> str:  # type: ignore[override]
        """The usual name, such as `LoHa`."""
        if self._type != "LORA":
            return self._tuner.title
        variant = next((name for flag, name in _VARIANTS.items() if self.config.get(flag)), None)
        start = _from_the_weight(self.config)
        return variant or " ".join(filter(None, [start, "DoRA" if self.config.get("use_dora") else ""]))

    def _find_keys(self) -> dict[str, dict[str, str]]:
        pattern = re.compile(rf"^(?P<module>.+?)\.(?P<tensor>{self._tuner.prefix}[^.]*(?:\..+)?)$")
        keys: dict[str, dict[str, str]] = {}
        self._shared = {}
        for key in self.tensors.shapes:
            match, name = pattern.match(key), key.removeprefix("base_model.")
            if name in self._tuner.shared:
                self._shared[name] = key
            elif match is not None:
                keys.setdefault(strip_peft_prefix(match["module"]), {})[match["tensor"]] = key
        missing = [name for name in self._tuner.shared if name not in self._shared]
        if keys and missing:
            raise HiploraError(
                f"{self.tensors.name} lacks {missing[0]}, which all modules of a {self.method} share: load the adapter "
                "with PEFT on its base, and save it with save_projection=True."
            )
        return keys

    def _shared_keys(self) -> Collection[str]:
        return self._shared.values()

    def _own_caveats(self) -> list[str]:
        unknown = sorted(set(self.config) - set(_fields(self._type)))
        if not unknown:
            return []
        return [f"adapter_config.json has settings that PEFT does not have: {', '.join(unknown[:5])}."]

    def _needs_weight(self, module: str) -> bool:
        return True

    def _shape(self, module: str) -> tuple[int, int] | None:
        return None

    def misfit(self, module: str, shape: tuple[int, ...]) -> str | None:
        """Return why the update does not fit a weight of this shape, as a clause; None where it does.

        PEFT says it: the adapter is put on a weight without data, and the shapes that it then has are compared.
        """
        if module not in self._keys:
            return super().misfit(module, shape)
        if (module, shape) not in self._misfits:
            self._misfits[module, shape] = self._outline_misfit(module, shape)
        return self._misfits[module, shape]

    def _outline_misfit(self, module: str, shape: tuple[int, ...]) -> str | None:
        import torch
        from peft import get_peft_model_state_dict

        def outline() -> dict[str, tuple[int, ...]]:
            with torch.device("cpu" if self._type in _LOOKS_AT_VALUES else "meta"):
                model = self._put_on(module, torch.empty(shape), outline=True)
                state = get_peft_model_state_dict(model, save_embedding_layers=False)
            return {
                key: tuple(value.shape)
                for key, value in state.items()
                if not key.startswith(f"{PEFT_PREFIX}{_LARGEST}.")
            }

        size = " x ".join(map(str, shape))
        try:
            expected = _quietly(outline)
        except _PeftError as error:
            return f"PEFT cannot put its {self.method} on a weight of {size} ({error})"
        own, shapes = self._own_keys(module), self.tensors.shapes
        for tensor, key in own.items():
            if tensor not in expected:
                return f"PEFT does not know its tensor {tensor.removeprefix(PEFT_PREFIX)} in a {self.method}"
            if expected[tensor] != shapes[key]:
                there, here = ("x".join(map(str, each)) or "a number" for each in (shapes[key], expected[tensor]))
                return f"its tensor {tensor.removeprefix(PEFT_PREFIX)} is {there}, and {here} for a weight of {size}"
        lacking = sorted(set(expected) - set(own))
        return f"the file lacks its tensor {lacking[0].removeprefix(PEFT_PREFIX)}" if lacking else None

    def _delta(self, module: str, weight: np.ndarray | None) -> Delta:
        import torch
        from peft import set_peft_model_state_dict

        original = np.asarray(weight, dtype=np.float64)
        if reason := self.misfit(module, original.shape):
            raise HiploraError(f"{self.tensors.name}: {module} does not fit: {reason}.")
        keys = self._own_keys(module)
        found = self.tensors.read_together(list(keys.values()))
        state = {
            tensor: torch.from_numpy(_as_numbers(value, f"{self.tensors.name}: {key}"))
            for (tensor, key), value in zip(keys.items(), found, strict=True)
        }

        @torch.no_grad()
        def merged() -> np.ndarray:
            W = torch.from_numpy(original.copy())
            # PEFT takes a weight apart in single precision only.
            single = self._type == "PSOFT" or _from_the_weight(self.config)
            model = self._put_on(module, W.float() if single else W).double()
            lost = list(set_peft_model_state_dict(model, state).unexpected_keys)
            lost += [name for name, value in [*model.named_parameters(), *model.named_buffers()] if value.is_meta]
            if lost := [key for key in lost if not key.startswith(f"{PEFT_PREFIX}{_LARGEST}.")]:
                raise _PeftError(f"it did not take {lost[0].removeprefix(PEFT_PREFIX)}")
            layer: Any = model.get_submodule(f"{PEFT_PREFIX}{module}")
            layer.merge()
            return np.asarray(layer.get_base_layer().weight.double().numpy())

        try:
            change = require_finite(_quietly(merged), f"{self.path}: {module}, merged,") - original
            return DenseDelta(change.reshape(len(change), -1))
        except _PeftError as error:
            raise HiploraError(f"{self.tensors.name}: PEFT cannot merge {module} ({error}).") from None

    def _own_keys(self, module: str) -> dict[str, str]:
        """Return `{PEFT's name of a tensor: key in the file}` of one module, shared ones with it."""
        own = {f"{PEFT_PREFIX}{module}.{tensor}": key for tensor, key in self._keys[module].items()}
        return own | {f"base_model.{name}": key for name, key in self._shared.items()}

    def _put_on(self, module: str, weight: "torch.Tensor", *, outline: bool = False) -> "PeftModel":
        """Return a model with nothing but one weight at its place, and the adapter on it, without its values."""
        import torch
        from peft import get_peft_model
        from torch import nn

        rows, columns, *kernel = weight.shape
        embedding = any(tensor.startswith("lora_embedding") for tensor in self._keys[module])
        with torch.device("meta"):
            leaf: nn.Module = nn.Embedding(rows, columns) if embedding else nn.Linear(columns, rows, bias=False)
            if kernel:
                convolution: Any = (nn.Conv1d, nn.Conv2d, nn.Conv3d)[len(kernel) - 1]
                leaf = convolution(columns, rows, tuple(kernel), bias=False)
        leaf.weight = nn.Parameter(weight, requires_grad=False)
        maps = {module: leaf}
        if largest := self._largest(rows, columns):
            # The tensors that all modules share are as large as the largest module needs them. This one has one number.
            with torch.device("meta"):
                maps[_LARGEST] = nn.Linear(largest[1], largest[0], bias=False)
            number = torch.zeros(1, dtype=torch.float64, device=weight.device)
            maps[_LARGEST].weight = nn.Parameter(number.expand(largest), requires_grad=False)
        root = nn.Module()
        for name, each in maps.items():
            *path, last = name.split(".")
            owner = root
            for part in path:
                owner.add_module(part, nn.Module())
                owner = owner.get_submodule(part)
            owner.add_module(last, each)
        config = self._peft_config(module, list(maps), outline=outline)
        # Adding an adapter draws random numbers, which are not the caller's.
        with torch.random.fork_rng(devices=[]):
            return get_peft_model(root, config, autocast_adapter_dtype=False).eval()

    def _largest(self, rows: int, columns: int) -> tuple[int, int] | None:
        """Return the most outputs and inputs that any module has, where the shared tensors tell; else None."""
        shapes = [self.tensors.shapes[key] for key in self._shared.values()]
        if len(shapes) < 2:
            return None
        # VeRA's A and B are r x in and out x r; RandLoRA's hold the larger side in B, be it out or in.
        inputs, outputs = shapes[0][-1], shapes[1][0]
        if rows > outputs or columns > inputs:
            inputs, outputs = outputs, inputs
        return outputs, inputs

    def _peft_config(self, module: str, targets: list[str], *, outline: bool) -> "PeftConfig":
        """Return PEFT's config for one module: settings by pattern applied, and nothing that chooses modules."""
        from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING

        fields = _fields(self._type)
        settings = {
            name: value
            for name, value in self.config.items()
            if name in fields and name not in _LEFT_OUT and name not in _PATTERNS
        }
        for field, names in _PATTERNS.items():
            patterns = self.config.get(field) or {}
            if field in fields and patterns and self._type != "ADALORA":
                found = self._matched(field, patterns).get(module)
                if found is not None:
                    settings[next(name for name in names if name in fields)] = found[1]
        _require_moderate(settings)
        settings |= {"target_modules": targets, "inference_mode": True, "fan_in_fan_out": False, "bias": "none"}
        if "feedforward_modules" in fields:
            settings["feedforward_modules"] = self._feedforward(module)
        if self._type == "LORA":
            settings["init_lora_weights"] = self.config["init_lora_weights"] if _from_the_weight(self.config) else True
        if self._type == "ADALORA" and (kept := self._kept_ranks(module)):
            # The file holds the ranks that were kept only.
            settings |= {"init_r": sum(kept[1])} if outline else {"rank_pattern": dict([kept])}
        if self._type == "WAVEFT":
            spectrum = next(iter(self._keys[module].values()))
            settings |= {"proportional_parameters": False, "n_frequency": self.tensors.shapes[spectrum][0]}
        return PEFT_TYPE_TO_CONFIG_MAPPING[self._type](**{k: v for k, v in settings.items() if k in fields})

    def _matched(self, field: str, patterns: Any) -> dict[str, tuple[str, Any]]:
        if field not in self._by_pattern:
            if not isinstance(patterns, Mapping):
                raise _PeftError(f"{field} must be an object")
            self._by_pattern[field] = match_patterns(patterns, self.modules, field)
        return self._by_pattern[field]

    @cached_property
    def _by_pattern(self) -> dict[str, dict[str, tuple[str, Any]]]:
        """Results of `match_patterns` so far, by field."""
        return {}

    def _feedforward(self, module: str) -> list[str]:
        """Return the module itself where (IA)³ scales its input, as PEFT decides it."""
        named = self.config.get("feedforward_modules")
        if isinstance(named, str):
            return [module] if module in match_patterns({named: True}, [module], "feedforward_modules") else []
        return [module] if any(module.endswith(str(name)) for name in named or ()) else []

    def _kept_ranks(self, module: str) -> tuple[str, list[bool]] | None:
        """Return AdaLoRA's entry on the ranks that were kept of a module: its name, and True for each one kept."""
        patterns = self.config.get("rank_pattern")
        if not isinstance(patterns, Mapping):
            return None
        names = (name for name in patterns if strip_peft_prefix(str(name)).startswith(f"{module}.lora_E"))
        name = next(names, None)
        if name is None or not isinstance(patterns[name], list) or len(patterns[name]) > _MOST:
            return None
        return f"{module}.lora_E", [bool(kept) for kept in patterns[name]]


class _PeftError(Exception):
    """What PEFT, or torch under it, said."""


def _quietly(work: Callable[[], _T]) -> _T:
    """Run PEFT without its warnings, which speak of the small model that it is given.

    Raises:
        _PeftError: it failed; the first line of what it said.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return work()
    except (HiploraError, _PeftError):
        raise
    except Exception as error:
        said = " ".join(str(error).split())
        raise _PeftError(said[:200] or type(error).__name__) from error


def _as_numbers(value: np.ndarray, what: str) -> np.ndarray:
    """Return integers as they are, and other numbers in a dtype that torch shares with numpy."""
    if value.dtype.kind in "iub":
        return value
    return require_finite(value if value.dtype in (np.float32, np.float64) else value.astype(np.float32), what)


def _require_moderate(settings: Mapping[str, Any]) -> None:
    """Raise where a setting asks for more memory than any adapter needs."""
    for name, value in settings.items():
        if isinstance(value, (int, float)) and abs(value) > _MOST and "seed" not in name and "key" not in name:
            raise _PeftError(f"{name} is {value}")


def _from_the_weight(config: Mapping[str, Any]) -> str | None:
    """Return the name of an initialization that takes a part of the weight away and gives it to the factors."""
    start = str(config.get("init_lora_weights", "")).lower()
    # On Conv1D, PEFT subtracts another product from the weight for OLoRA than it adds.
    return None if start == "olora" and config.get("fan_in_fan_out") else _FROM_THE_WEIGHT.get(start)


@cache
def _fields(kind: str) -> frozenset[str]:
    """Return the settings that PEFT has for a type.

    Raises:
        HiploraError: the PEFT that is installed does not have it.
    """
    import peft
    from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING

    if kind not in PEFT_TYPE_TO_CONFIG_MAPPING:
        raise HiploraError(f"PEFT {peft.__version__} does not have peft_type {kind}: `pip install --upgrade peft`.")
    return frozenset(PEFT_TYPE_TO_CONFIG_MAPPING[kind].__dataclass_fields__)
