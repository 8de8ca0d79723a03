r"""The saved form of a HiP-LoRA adapter, and the conversion of its tensors to an update. numpy only.

`adapter_model.safetensors` holds, for each adapted module of shape (m, n), out x in (Conv1D too), with
`base_model.model.` and the module's name before the dot, everything in float32:

    .hiplora_A   (r, n)            residual channel, before projection
    .hiplora_B   (m, r)
    .hiplora_C   (k, k) or (k,)    the core; with `core="diagonal"` the relative gains g
    .hiplora_S   (k,)              leading singular values of the frozen weight, falling
    .hiplora_Ut  (k, m)            its left singular vectors as rows, in canonical sign  \ left out when
    .hiplora_Vt  (k, n)            its right singular vectors as rows                    / `save_factors` is false

With `geometry="inputs"` (METHOD.md section 8) `S` and `Ut` are those of `W0 K`, `Vt` has `Q_k` as rows, and there is

    .hiplora_Rinv (k, k)           the inverse of `R` in `K V'_k = Q_k R`: the core acts as `C R^-1`

and, under their own names, the tensors of `modules_to_save`.

`adapter_config.json` holds the fields of `HipLoraConfig`. Its `base_weights` has one entry per adapted module, named
without `base_model.model.`:

    hash             `hiplora.spectrum.content_hash` of the frozen weight: the adapter fits no other
    principal_rank   k, also where `principal_rank` is a share of spectral energy
    factors          SHA-256 of the bytes of Ut, S, Vt and Rinv: the core fits no other basis
    inputs           SHA-256 of the moments of the observed inputs, with `geometry="inputs"` only
"""

import dataclasses
import hashlib
from collections.abc import Collection, Iterable, Mapping
from typing import Any

import numpy as np

from hiplora.adapters.patterns import match_patterns
from hiplora.budget import within_budget
from hiplora.errors import HiploraError
from hiplora.settings import HipLoraSettings
from hiplora.sources import strip_peft_prefix

PREFIX = "hiplora_"
BASIS = ("Ut", "S", "Vt", "Rinv")
"""The frozen tensors, without the prefix; the last with `geometry="inputs"` only."""
FACTORS = ("hiplora_Ut", "hiplora_Vt")
"""The tensors that can be restored from a cache."""


def module_settings(config: Mapping[str, Any], modules: Collection[str]) -> dict[str, HipLoraSettings]:
    """Return the settings of modules. Of several patterns that match one, the first in alphabetical order counts.

    Args:
        config: the fields of `HipLoraConfig`, as saved.
        modules: names without `base_model.model.`.

    Raises:
        HiploraError: a field is missing, of the wrong type or out of range, or a pattern cannot be used.
    """
    found = {}
    # Adapters of before there was a choice.
    config = {"geometry": HipLoraSettings.geometry, **config}
    for setting in dataclasses.fields(HipLoraSettings):
        if field := setting.metadata.get("pattern"):
            patterns = config.get(field) or {}
            if not isinstance(patterns, Mapping):
                raise HiploraError(
                    f"adapter_config.json has {field} {patterns!r}, not an object: save the adapter again."
                )
            # PEFT sorts the keys when it saves. Sorting them here too gives overlapping patterns the same value
            # before and after.
            found[field] = match_patterns(dict(sorted(patterns.items())), modules, field)
    return {
        module: _settings(config, {field: matches.get(module) for field, matches in found.items()})
        for module in modules
    }


def _settings(config: Mapping[str, Any], matches: Mapping[str, tuple[str, Any] | None]) -> HipLoraSettings:
    """Return the settings of one module, given the pattern of each field that matches it and the pattern's value."""
    values: dict[str, Any] = {}
    for setting in dataclasses.fields(HipLoraSettings):
        name, pattern, rule = setting.name, setting.metadata.get("pattern", ""), setting.metadata["rule"]
        if name == "epsilon_pattern":
            continue  # It is applied here.
        if name not in config:
            raise HiploraError(
                f"adapter_config.json has no {name!r}: it was not written by HipLoraConfig, save it again."
            )
        label, value = name, config[name]
        if match := matches.get(pattern):
            label, value = f"{pattern}[{match[0]!r}]", match[1]
        if not rule.accepts(value):
            raise HiploraError(f"adapter_config.json has {label} {value!r}, not {rule.words}: save the adapter again.")
        values[name] = value
    return HipLoraSettings(**values)


def base_entry(config: Mapping[str, Any], module: str) -> dict[str, Any]:
    """Return the entry of one module in a config's `base_weights`.

    Args:
        config: the fields of `HipLoraConfig`, as saved.
        module: the module's name without `base_model.model.`.

    Raises:
        HiploraError: the entry is missing or not valid.
    """
    entries = config.get("base_weights")
    entry = entries.get(module) if isinstance(entries, Mapping) else None
    kinds = {"hash": str, "principal_rank": int, "factors": str}
    if (
        not isinstance(entry, dict)
        or not all(isinstance(entry.get(name), kind) for name, kind in kinds.items())
        or entry["principal_rank"] < 1
        or not isinstance(entry.get("inputs", ""), str)
    ):
        raise HiploraError(
            f"adapter_config.json does not say which base weight {module} was trained on (base_weights): save the "
            "adapter again."
        )
    return entry


def split_key(key: str) -> tuple[str, str] | None:
    """Return `(module, tensor name)` of a key such as `base_model.model.x.q_proj.hiplora_A`, None for any other."""
    module, _, name = key.rpartition(".")
    if not name.startswith(PREFIX):
        return None
    return strip_peft_prefix(module), name


def group_keys(keys: Iterable[str]) -> dict[str, dict[str, str]]:
    """Return `{module: {tensor name: key}}` of the HiP-LoRA tensors among `keys`, in their order."""
    groups: dict[str, dict[str, str]] = {}
    for key in keys:
        parts = split_key(key)
        if parts:
            groups.setdefault(parts[0], {})[parts[1]] = key
    return groups


def factors_hash(basis: Iterable[np.ndarray]) -> str:
    """Return the SHA-256 of the float32 bytes of a basis: equal bytes give equal outputs.

    Args:
        basis: Ut (k, m), S (k,), Vt (k, n) and, in the geometry of the inputs, Rinv (k, k).
    """
    digest = hashlib.sha256()
    for array in basis:
        digest.update(np.ascontiguousarray(array, dtype=np.float32).tobytes())
    return digest.hexdigest()


def with_factors(tensors: Mapping[str, np.ndarray], entry: Mapping[str, Any], module: str) -> dict[str, np.ndarray]:
    """Return the tensors of one module with `hiplora_Ut` and `hiplora_Vt`, from the user's cache if left out.

    Args:
        tensors: tensor name -> array.
        entry: the module's entry in `base_weights`.
        module: its name, for the errors.

    Raises:
        HiploraError: they are not in the cache, or those found there or in the file are not the core's own.
    """
    complete = dict(tensors)
    S = complete.get(f"{PREFIX}S")
    if S is None:
        raise HiploraError(f"The adapter file holds no {PREFIX}S of {module}: save it again.")
    if all(name in complete for name in FACTORS):
        basis = [complete[PREFIX + name] for name in BASIS if PREFIX + name in complete]
        check_factors(basis, entry, module, in_file=True)
        return complete
    if "inputs" in entry:
        raise without_basis(module)
    from hiplora.spectrum import default_cache

    spectrum = default_cache().lookup(entry["hash"], entry["principal_rank"])
    if spectrum is None:
        raise HiploraError(
            f"The adapter was saved without its singular vectors and the cache does not hold those of {module}: load "
            "it once on its base model, or save it with save_factors=True."
        )
    check_factors((spectrum.Ut, S, spectrum.Vt), entry, module)
    return complete | {"hiplora_Ut": spectrum.Ut, "hiplora_Vt": spectrum.Vt}


def without_basis(module: str) -> HiploraError:
    """Return the error for a file that lacks a basis of the inputs, which nothing else can give."""
    return HiploraError(
        f"The adapter was trained in the geometry of its inputs, and its file lacks the basis of {module}: save it "
        "again where it was trained."
    )


def check_factors(basis: Iterable[np.ndarray], entry: Mapping[str, Any], module: str, *, in_file: bool = False) -> None:
    """Raise unless this is, bit for bit, the basis the module's core was trained on.

    Args:
        basis: as in `factors_hash`.
        entry: the module's entry in `base_weights`.
        module: its name, for the error.
        in_file: whether it came with the adapter, for the error.

    Raises:
        HiploraError: it is another basis.
    """
    if factors_hash(basis) == entry["factors"]:
        return
    if in_file:
        raise HiploraError(
            f"The singular vectors of {module} in the adapter's file are not those its core was trained on: the file "
            "was damaged or cast to another dtype, save the adapter again."
        )
    raise HiploraError(
        f"The singular vectors of {module} found here differ in their last digits from those its core was trained on: "
        "save the adapter with save_factors=True where it was trained."
    )


def low_rank_factors(tensors: Mapping[str, np.ndarray], settings: HipLoraSettings) -> tuple[np.ndarray, np.ndarray]:
    """Return `(L, R)` with `dW = L R`, both channels, scaled, in float64 (METHOD.md section 2).

        L = [U_k C | (alpha/r) (I - U_k U_k^T) B]   (m, k + r)
        R = [V_k^T ; A (I - V_k V_k^T)]             (k + r, n)

    In hard mode `C` is the effective core, `C * min(1, epsilon / sqrt(cost))`; in the geometry of the inputs `C R^-1`
    stands in its place, with `Q_k` in that of `V_k`.

    Args:
        tensors: tensor name -> array of one module, factors included.
        settings: of the module.

    Raises:
        HiploraError: a tensor is missing or the shapes do not fit each other.
    """
    on_inputs = settings.geometry == "inputs"
    missing = [n for n in ("A", "B", "C", *BASIS[: 3 + on_inputs]) if PREFIX + n not in tensors]
    if missing:
        raise HiploraError(f"The adapter file holds no {PREFIX}{missing[0]} for one of its modules: save it again.")
    A, B, C, S, Ut, Vt = (np.asarray(tensors[PREFIX + n], dtype=np.float64) for n in ("A", "B", "C", "S", "Ut", "Vt"))
    k, shapes = len(S), {"A": A.shape, "B": B.shape, "C": C.shape, "Ut": Ut.shape, "Vt": Vt.shape}
    r, n, m = settings.r, Vt.shape[-1], Ut.shape[-1]
    core_shape = (k, k) if settings.core == "full" else (k,)
    if shapes != {"A": (r, n), "B": (m, r), "C": core_shape, "Ut": (k, m), "Vt": (k, n)}:
        raise HiploraError(f"The shapes of a module's tensors do not fit r={r} and core={settings.core!r}: {shapes}.")
    core = effective_core(C, S, settings)
    if on_inputs:
        Rinv = np.asarray(tensors[f"{PREFIX}Rinv"], dtype=np.float64)
        if Rinv.shape != (k, k):
            raise HiploraError(f"The shape of a module's {PREFIX}Rinv does not fit k={k}: {Rinv.shape}.")
        core = core @ Rinv
    L = np.concatenate([Ut.T @ core, settings.scaling * (B - Ut.T @ (Ut @ B))], axis=1)
    return L, np.concatenate([Vt, A - (A @ Vt.T) @ Vt])


def effective_core(C: np.ndarray, S: np.ndarray, settings: HipLoraSettings) -> np.ndarray:
    """Return the core as the forward uses it, (k, k), float64: diagonal gains spread out, hard budget applied.

    Args:
        C: (k, k), or (k,) with `core="diagonal"`.
        S: (k,).
        settings: of the module.
    """
    core = np.diag(S * C) if settings.core == "diagonal" else C
    if settings.budget_mode == "hard":
        core = within_budget(core, S, settings.budget_power, settings.epsilon)
    return core
