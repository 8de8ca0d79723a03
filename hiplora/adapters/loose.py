"""LoRA files of other tools than PEFT: kohya's sd-scripts, LyCORIS, diffusers, ComfyUI, ai-toolkit and MLX."""

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np

from hiplora.adapters.adapter import Adapter
from hiplora.adapters.delta import Delta, DenseDelta, LowRankDelta
from hiplora.adapters.patterns import match_patterns
from hiplora.errors import HiploraError
from hiplora.files import TensorSource
from hiplora.sources import strip_peft_prefix

METADATA: Final = "lora_adapter_metadata"
"""Where diffusers keeps PEFT's settings, in the file's own metadata."""
_NAMES: Final = {
    "lora_down": "down", "lora_up": "up", "lora_mid": "mid", "lora_A": "down", "lora_B": "up", "lora.down": "down",
    "lora.up": "up", "lora_linear_layer.down": "down", "lora_linear_layer.up": "up", "lora_a": "in_r",
    "lora_b": "r_out",
}  # fmt: skip
_KEY = re.compile(
    rf"^(?P<module>.+)\.(?P<tensor>{'|'.join(map(re.escape, _NAMES))}|alpha|scale|dora_scale|diff|bias"
    r"|hada_(?:w[12]_[ab]|t[12])|lokr_(?:w[12](?:_[ab])?|t2))(?:\.(?:default\.)?weight)?$"
)
_PROCESSOR = re.compile(r"\.processor\.(to_(?:q|k|v|out))_lora\.(down|up)\.weight$")
_NUMBERS: Final = ("alpha", "scale", "bias")
_FORMS: Final = {"LoHa": "hada_w1_a", "LoKr": "lokr_w1 lokr_w1_a", "LoRA": "down in_r", "full difference": "diff"}


class LooseAdapter(Adapter):
    """Low-rank updates by the names that other tools give them.

    Each module has its own `alpha`, and `dW = alpha / r * up down`; without one, diffusers' settings in the file's
    metadata count, and else `alpha` is `r`, as those tools have it. LyCORIS adds `mid` (a convolution's core), LoHa,
    LoKr and full differences (`diff`). MLX stores `lora_a` (n x r) and `lora_b` (r x m), and its config the `scale`.

    Raises:
        HiploraError: the file holds nothing of the sort, magnitudes of a DoRA, or MLX's config says no scale.
    """

    @classmethod
    def reads(cls, config: dict[str, Any], tensors: TensorSource, folder: Path) -> bool:
        """Return whether another tool than PEFT has named its tensors, or PEFT's config does not lie beside them."""
        kind = str(config.get("peft_type") or "").upper()
        matches = [match for key in tensors.shapes if (match := _KEY.match(_plain(key)))]
        named = {match["tensor"] for match in matches} - set(_NUMBERS)
        # PEFT's own tensors mean nothing without its config.
        own = any(strip_peft_prefix(match.string) != match.string for match in matches)
        return kind in ("", "LORA") and bool(named) and not own and (not kind or not named & {"lora_A", "lora_B"})

    @property
    def method(self) -> str:  # type: ignore[override]
        """The method of most of its modules."""
        counts = dict.fromkeys(_FORMS, 0)
        for tensors in self._keys.values():
            counts[next(title for title, names in _FORMS.items() if set(names.split()) & set(tensors))] += 1
        return max(counts, key=lambda title: counts[title])

    def _find_keys(self) -> dict[str, dict[str, str]]:
        keys: dict[str, dict[str, str]] = {}
        for key in self.tensors.shapes:
            match = _KEY.match(_plain(key))
            # The difference of a norm or a bias is not a matrix: it is named with what does not count.
            if match is not None and not (match["tensor"] == "diff" and len(self.tensors.shapes[key]) < 2):
                name = _NAMES.get(match["tensor"], match["tensor"])
                keys.setdefault(strip_peft_prefix(match["module"]), {})[name] = key
        found = {
            module: tensors
            for module, tensors in keys.items()
            if any(set(names.split()) & set(tensors) for names in _FORMS.values())
        }
        said = self.config.get("fine_tune_type") == "dora" or bool(self.config.get("use_dora"))
        # MLX calls its magnitudes m.
        held = any(
            "dora_scale" in tensors or ("in_r" in tensors and f"{module}.m" in self.tensors.shapes)
            for module, tensors in found.items()
        )
        if said or held:
            raise HiploraError(
                f"{self.tensors.name} holds magnitudes of a DoRA, which tools apply in different ways: merge it "
                "where it was trained, and pass the merged model."
            )
        for module, tensors in found.items():
            for name, key in tensors.items():
                shape = self.tensors.shapes[key]
                if name not in _NUMBERS and (len(shape) < 2 or 0 in shape):
                    raise HiploraError(
                        f"{self.tensors.name}: {key} is {'x'.join(map(str, shape)) or 'a number'} where a factor has "
                        "two dimensions or more: download or save the file again."
                    )
            for wanted in (("down", "up"), ("in_r", "r_out")):
                if wanted[0] in tensors and wanted[1] not in tensors:
                    raise HiploraError(
                        f"{self.tensors.name}: {module} has one factor of two: download or save the file again."
                    )
        return found

    def _own_caveats(self) -> list[str]:
        caveats = []
        parameters = self.config.get("lora_parameters")
        if "lora_layers" in self.config and isinstance(parameters, Mapping) and "alpha" in parameters:
            caveats.append("mlx-lm up to 0.14.0 multiplied the scale by alpha / rank; that is not done here.")
        if self.config.get("peft_type") is None and "lora_parameters" not in self.config and not self._settings:
            silent = [module for module, keys in self._keys.items() if not {"alpha", "scale", "diff"} & set(keys)]
            if silent:
                caveats.append(f"Nothing says the alpha of {len(silent)} modules ({silent[0]}): alpha = r is taken.")
        return caveats

    @property
    def _settings(self) -> Mapping[str, Any]:
        """PEFT's settings by component, `unet.r`, as diffusers keeps them."""
        found = self.config.get(METADATA)
        return found if isinstance(found, Mapping) else {}

    def _shape(self, module: str) -> tuple[int, int] | None:
        keys, shapes = self._keys[module], self.tensors.shapes

        def shape(name: str) -> tuple[int, ...]:
            return shapes[self._key(module, name)]

        if "diff" in keys:
            return shape("diff")[0], math.prod(shape("diff")[1:])
        if "in_r" in keys:
            return shape("r_out")[-1], shape("in_r")[0]
        if "down" in keys:
            kernel = math.prod(shape("mid")[2:]) if "mid" in keys else 1
            return shape("up")[0], math.prod(shape("down")[1:]) * kernel

        def product(name: str, core: str) -> tuple[int, ...]:
            first, second = shape(f"{name}_a"), shape(f"{name}_b")
            return (first[1], second[1], *shape(core)[2:]) if core in keys else (first[0], *second[1:])

        if "hada_w1_a" in keys:
            rows, *rest = product("hada_w1", "hada_t1")
            return rows, math.prod(rest)
        first, second = (
            shape(f"lokr_w{i}") if f"lokr_w{i}" in keys else product(f"lokr_w{i}", f"lokr_t{i}") for i in (1, 2)
        )
        return first[0] * second[0], math.prod(first[1:]) * math.prod(second[1:])

    def scale(self, module: str) -> float | None:
        """Return the factor of the product of factors; None where there is none."""
        ranks = {"down": 0, "in_r": -1, "hada_w1_b": 0, "lokr_w2_b": 0, "lokr_w1_b": 0}
        keys = self._keys.get(module, {})
        found = next(((name, axis) for name, axis in ranks.items() if name in keys), None)
        return self.scaling(module, self.tensors.shapes[keys[found[0]]][found[1]]) if found else None

    def scaling(self, module: str, r: int) -> float:
        """Return the factor of the product of factors of rank `r`."""
        if "alpha" in self._keys[module]:
            return self._number(module, "alpha") / r
        if "scale" in self._keys[module]:
            return self._number(module, "scale")
        if isinstance(parameters := self.config.get("lora_parameters"), Mapping):
            return self._mlx_scale(parameters)
        settings = self._settings or {f".{name}": value for name, value in self.config.items()}
        components = {name.rpartition(".")[0] for name in settings}
        component = max((name for name in components if f"{module}.".startswith(f"{name}.")), key=len, default="")
        own = {name.rpartition(".")[2]: value for name, value in settings.items() if name.startswith(f"{component}.")}
        alpha = own.get("lora_alpha", r)
        patterns = own.get("alpha_pattern")
        if isinstance(patterns, Mapping) and patterns:
            # The patterns are those of the component, whose name the file puts before its modules.
            inner = module.removeprefix(f"{component}.")
            matched = match_patterns(patterns, [inner], "alpha_pattern")
            alpha = matched[inner][1] if inner in matched else alpha
        try:
            return float(alpha) / (math.sqrt(r) if own.get("use_rslora") else r)
        except (TypeError, ValueError):
            raise HiploraError(f"{self.tensors.name}: lora_alpha must be a number, got {str(alpha)[:60]}.") from None

    def _mlx_scale(self, parameters: Mapping[str, Any]) -> float:
        try:
            # mlx-lm keeps an `alpha` in its settings that it does not use; up to version 0.14.0 it did.
            return float(parameters["scale"])
        except (KeyError, TypeError, ValueError):
            raise HiploraError(
                f"{self.path / 'adapter_config.json'}: lora_parameters must say the scale: add it from the training."
            ) from None

    def _number(self, module: str, name: str) -> float:
        value = self._read([self._key(module, name)], self.tensors)[0]
        if value.size != 1:
            raise HiploraError(f"{self.tensors.name}: {name} of {module} is not one number: save the file again.")
        return float(value.reshape(()))

    def _delta(self, module: str, weight: np.ndarray | None) -> Delta:
        keys = self._keys[module]
        names = [name for name in keys if name not in _NUMBERS]
        values = self._read([keys[name] for name in names], self.tensors)
        tensors = dict(zip(names, values, strict=True))
        try:
            return self._product(module, tensors)
        except HiploraError:
            raise
        except (ValueError, IndexError, KeyError):
            shapes = ", ".join(f"{name} {'x'.join(map(str, value.shape))}" for name, value in tensors.items())
            raise HiploraError(
                f"{self.tensors.name}: the tensors of {module} do not multiply ({shapes}): save the file again."
            ) from None

    def _product(self, module: str, tensors: Mapping[str, np.ndarray]) -> Delta:
        if "diff" in tensors:
            return DenseDelta(tensors["diff"].reshape(len(tensors["diff"]), -1))
        if "in_r" in tensors:
            A, B = tensors["in_r"].T, tensors["r_out"].T
            return LowRankDelta(self.scaling(module, A.shape[0]) * B, A)
        if "down" in tensors:
            A, B = tensors["down"], tensors["up"]
            r = A.shape[0]
            B = B.reshape(B.shape[0], r)
            if "mid" in tensors:
                mid = tensors["mid"]
                A = np.einsum("ij...,jn->in...", mid, A.reshape(r, -1))
            return LowRankDelta(self.scaling(module, r) * B, A.reshape(r, -1))
        if "hada_w1_a" in tensors:
            first, second = (_product_of(tensors, f"hada_w{i}", f"hada_t{i}") for i in (1, 2))
            return DenseDelta(
                self.scaling(module, tensors["hada_w1_b"].shape[0]) * (first * second).reshape(len(first), -1)
            )
        ranks = [tensors[f"lokr_w{i}_b"].shape[0] for i in (1, 2) if f"lokr_w{i}_b" in tensors]
        first, second = (
            tensors[f"lokr_w{i}"] if f"lokr_w{i}" in tensors else _product_of(tensors, f"lokr_w{i}", f"lokr_t{i}")
            for i in (1, 2)
        )
        # Kronecker products of a matrix and a convolution: the kernel's axes stay as they are.
        first = first.reshape(*first.shape, *[1] * (second.ndim - first.ndim))
        product = np.kron(first, second)
        # Two whole factors do not have a rank: LyCORIS scales them by one.
        scaling = self.scaling(module, ranks[-1]) if ranks else 1.0
        return DenseDelta(scaling * product.reshape(len(product), -1))


def _product_of(tensors: Mapping[str, np.ndarray], name: str, core: str) -> np.ndarray:
    """Return the product of two of LyCORIS' factors; with a core for a kernel (Tucker), that of the three."""
    first, second = tensors[f"{name}_a"], tensors[f"{name}_b"]
    if core in tensors:
        return np.einsum("ij...,ip,jr->pr...", tensors[core], first, second)
    return np.tensordot(first, second, 1)


def _plain(key: str) -> str:
    """Return a key in the form of the others, where diffusers put its factors beside the maps."""
    return _PROCESSOR.sub(lambda m: f".{m[1]}{'.0' if m[1] == 'to_out' else ''}.lora.{m[2]}.weight", key)
