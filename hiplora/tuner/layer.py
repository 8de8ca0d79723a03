"""A linear map with HiP-LoRA adapters on it."""

import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from peft.tuners._buffer_dict import BufferDict
from peft.tuners.tuners_utils import BaseTunerLayer, check_adapters_to_merge
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from hiplora.adapters.hiplora_format import BASIS, PREFIX, check_factors
from hiplora.errors import HiploraError
from hiplora.settings import HipLoraSettings
from hiplora.tuner.config import HipLoraConfig
from hiplora.tuner.factors import check_ranks, fetch_basis, oriented_weight, refetch_basis
from hiplora.tuner.functional import AddUpdate, budget_cost, compute_dtype, project_out, within_budget
from hiplora.tuner.observe import observed_inputs


@dataclass(frozen=True)
class BaseRecord:
    """An adapter's record of its base weight.

    Attributes:
        module: name in the model.
        entry: its entry in the config's `base_weights`.
        filled: whether the adapter is ready for use; false for a saved adapter until its file is read.
    """

    module: str
    entry: dict[str, Any]
    filled: bool


class HipLoraLayer(BaseTunerLayer):
    """The parameters and the algebra of HiP-LoRA on one weight (m x n, out x in).

    Per adapter, all float32: `hiplora_A` (r, n), `hiplora_B` (m, r), `hiplora_C` (k, k) or (k,) are trained;
    `hiplora_Ut` (k, m), `hiplora_S` (k,), `hiplora_Vt` (k, n) and, in the geometry of the inputs, `hiplora_Rinv` (k, k)
    are the frozen basis, which stays float32 when the model is cast to 16 bits.
    """

    adapter_layer_names = ("hiplora_A", "hiplora_B", "hiplora_C")
    other_param_names = (
        "hiplora_Ut",
        "hiplora_S",
        "hiplora_Vt",
        "hiplora_Rinv",
        "hiplora_dropout",
        "hiplora_settings",
        "hiplora_records",
    )

    # Attributes of PEFT's base class, which is untyped.
    active_adapters: list[str]
    get_base_layer: Callable[[], Any]
    _cast_input_dtype: Callable[[Tensor, torch.dtype], Tensor]

    def __init__(self, base_layer: nn.Module):
        self.base_layer = base_layer
        self.hiplora_A = nn.ParameterDict()
        self.hiplora_B = nn.ParameterDict()
        self.hiplora_C = nn.ParameterDict()
        self.hiplora_Ut = _Unrounded(persistent=True)
        self.hiplora_S = _Unrounded(persistent=True)
        self.hiplora_Vt = _Unrounded(persistent=True)
        self.hiplora_Rinv = _Unrounded(persistent=True)
        self.hiplora_dropout = nn.ModuleDict()
        self.hiplora_settings: dict[str, HipLoraSettings] = {}
        self.hiplora_records: dict[str, BaseRecord] = {}
        self._disable_adapters = False
        self.merged_adapters: list[str] = []

    @property
    def transposed(self) -> bool:
        """Whether the weight is stored as (in, out)."""
        return isinstance(self.get_base_layer(), Conv1D)

    def update_layer(
        self, adapter_name: str, config: HipLoraConfig, settings: HipLoraSettings, module: str, loading: bool
    ) -> None:
        """Add an adapter to this layer.

        Args:
            adapter_name: its name.
            config: the adapter's; a new adapter's entry in `base_weights` is written here.
            settings: the config's settings for this module.
            module: the module's name in the model.
            loading: the adapter was saved before: take its basis from its file, or from the cache if the file has
                none, instead of from a decomposition.

        Raises:
            HiploraError: a rank is larger than the layer, the weight cannot be decomposed, or a saved adapter
                does not know this module.
        """
        weight = oriented_weight(self.get_base_layer(), module)
        m, n = weight.shape
        check_ranks(settings, (m, n), module)
        if not loading:
            basis = fetch_basis(weight, settings, module, observed_inputs(self.get_base_layer()))
            config.base_weights[module] = basis.entry
        elif module not in config.base_weights:
            raise HiploraError(
                f"Adapter {adapter_name!r} was not trained on {module}, which its target_modules match: load the base "
                "it was trained on."
            )
        entry = config.base_weights[module]
        k, r = entry["principal_rank"], settings.r
        waiting = loading and config.save_factors
        if loading and not waiting:
            basis = refetch_basis(weight, settings, entry, module)
        self.hiplora_settings[adapter_name] = settings
        self.hiplora_records[adapter_name] = BaseRecord(module, entry, filled=not loading)
        dropout = config.lora_dropout
        self.hiplora_dropout[adapter_name] = nn.Dropout(dropout) if dropout else nn.Identity()
        core_shape = (k, k) if settings.core == "full" else (k,)
        for trained, size in ((self.hiplora_A, (r, n)), (self.hiplora_B, (m, r)), (self.hiplora_C, core_shape)):
            trained[adapter_name] = nn.Parameter(torch.zeros(size, dtype=torch.float32))
        shapes = {"Ut": (k, m), "S": (k,), "Vt": (k, n)} | ({"Rinv": (k, k)} if settings.geometry == "inputs" else {})
        for name, shape in shapes.items():
            # NaN until the file is read: an unread basis must never be taken for a real one.
            buffer = torch.full(shape, math.nan, dtype=torch.float32)
            if not waiting:
                buffer.copy_(torch.from_numpy(getattr(basis, name)))
            getattr(self, f"hiplora_{name}")[adapter_name] = buffer
        self._reset(adapter_name, config.init_weights)
        self._move_adapter_to_device_of_base_layer(adapter_name)
        self.set_adapter(self.active_adapters, inference_mode=config.inference_mode)

    @torch.no_grad()
    def _reset(self, adapter_name: str, init_weights: bool) -> None:
        nn.init.kaiming_uniform_(self.hiplora_A[adapter_name], a=math.sqrt(5))
        if not init_weights:
            nn.init.normal_(self.hiplora_B[adapter_name], std=0.02)
            nn.init.normal_(self.hiplora_C[adapter_name], std=0.02)

    def _move_adapter_to_device_of_base_layer(self, adapter_name: str, device: torch.device | None = None) -> None:
        # PEFT's own would also cast to the dtype of the base, and a basis rounded to 16 bits is no longer orthonormal.
        device = device or self.get_base_layer().weight.device
        if device.type == "meta":
            return
        for values in self._tensors:
            if adapter_name not in values or (old := values[adapter_name]).device in (device, torch.device("meta")):
                continue
            moved = old.data.to(device)
            is_parameter = isinstance(old, nn.Parameter)
            values[adapter_name] = nn.Parameter(moved, requires_grad=old.requires_grad) if is_parameter else moved

    @property
    def _tensors(self) -> list[Any]:
        return [getattr(self, PREFIX + name) for name in ("A", "B", "C", *BASIS)]

    def basis(self, adapter: str) -> dict[str, Tensor]:
        """Return the frozen tensors of an adapter by name: `Ut`, `S`, `Vt`, and `Rinv` where there is one."""
        held = {name: getattr(self, PREFIX + name) for name in BASIS}
        return {name: values[adapter] for name, values in held.items() if adapter in values}

    def fill(self, adapter: str) -> None:
        """Make sure that the basis is there: from the adapter's file, already read, or fetched.

        Raises:
            HiploraError: it is not the basis that the core was trained on.
        """
        record = self.hiplora_records[adapter]
        if record.filled:
            return
        basis = self.basis(adapter)
        if any(bool(buffer.isnan().any()) for buffer in basis.values()):
            weight = oriented_weight(self.get_base_layer(), record.module)
            found = refetch_basis(weight, self.hiplora_settings[adapter], record.entry, record.module)
            for name, buffer in basis.items():
                buffer.copy_(torch.from_numpy(getattr(found, name)))
        else:
            arrays = [buffer.float().cpu().numpy() for buffer in basis.values()]
            check_factors(arrays, record.entry, record.module, in_file=True)
        for values in self._tensors:
            # Memory-mapped tensors are rarely aligned, and a CPU then rounds products differently.
            if adapter in values and values[adapter].data_ptr() % 64:
                values[adapter].data = values[adapter].data.clone()
        self.hiplora_records[adapter] = replace(record, filled=True)

    def effective_core(self, adapter: str) -> Tensor:
        """Return the core that the budget holds, (k, k), differentiable: gains expanded, hard budget applied."""
        self.fill(adapter)
        settings, S = self.hiplora_settings[adapter], self.hiplora_S[adapter]
        core = self.hiplora_C[adapter].to(S.dtype)
        if settings.core == "diagonal":
            core = torch.diag(S * core)
        if settings.budget_mode == "hard":
            core = within_budget(core, S, settings.budget_power, settings.epsilon)
        return core

    def between(self, adapter: str, core: Tensor) -> Tensor:
        """Return what stands between `U_k` and the rows of `Vt`: the core, or `C R^-1` in the geometry of the inputs.

        Args:
            adapter: its name.
            core: from `effective_core`, (k, k).
        """
        if adapter not in self.hiplora_Rinv:
            return core
        # Autocast would take the product in 16 bits.
        with torch.autocast(core.device.type, enabled=False):
            return core @ self.hiplora_Rinv[adapter].to(core.dtype)

    def cost(self, adapter: str) -> Tensor:
        """Return the stability cost of the effective core, 0-dimensional, differentiable (METHOD.md section 3)."""
        return budget_cost(
            self.effective_core(adapter), self.hiplora_S[adapter], self.hiplora_settings[adapter].budget_power
        )

    @torch.no_grad()
    def tightness(self, adapter: str) -> Tensor:
        """Return `sqrt(cost) / epsilon`, 0-dimensional: 1.0 means that the budget is spent."""
        return self.cost(adapter).sqrt() / self.hiplora_settings[adapter].epsilon

    def delta_factors(self, adapter: str) -> tuple[Tensor, Tensor]:
        """Return `(L, R)` with `dW = L R`, (m, k + r) and (k + r, n), out x in for Conv1D too, scaling included."""
        core = self.between(adapter, self.effective_core(adapter))
        A, B, Ut, Vt = (
            values[adapter] for values in (self.hiplora_A, self.hiplora_B, self.hiplora_Ut, self.hiplora_Vt)
        )
        residual = project_out(B.T, Ut).T * self.hiplora_settings[adapter].scaling
        return torch.cat([Ut.T @ core, residual], dim=1), torch.cat([Vt, project_out(A, Vt)])

    def get_delta_weight(self, adapter: str) -> Tensor:
        """Return `dW` in the layout of the base weight: (m, n), or (n, m) for Conv1D."""
        L, R = self.delta_factors(adapter)
        return (L @ R).T if self.transposed else L @ R

    def supports_lora_conversion(self, adapter_name: str = "default") -> bool:
        """True: the update has rank k + r at most."""
        return True


class _Unrounded(BufferDict):
    """Buffers that `to`, `half` and the like move to a device, but never cast below float32."""

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "_Unrounded":
        def apply(old: Tensor) -> Tensor:
            new = fn(old)
            return new if new.dtype.itemsize >= 4 else old.to(new.device, torch.float32)

        return super()._apply(apply, recurse)


class HipLoraLinear(nn.Module, HipLoraLayer):
    """nn.Linear or Conv1D with adapters: `forward = x (W0 + dW)^T + bias`, dW never formed."""

    # Called with the layer, the adapter and the effective core; returns the core to use: see `ShadowPrices`.
    price_recorder: "Callable[[HipLoraLinear, str, Tensor], Tensor] | None" = None

    def __init__(self, base_layer: nn.Module, adapter_name: str, **update: Any):
        super().__init__()
        HipLoraLayer.__init__(self, base_layer)
        self._active_adapter = adapter_name
        self.update_layer(adapter_name, **update)

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """Return the base layer's output plus the active adapters' updates, in its dtype; (..., n) -> (..., m)."""
        if self.disable_adapters and self.merged:
            self.unmerge()
        result = self.base_layer(x, *args, **kwargs)
        if self.disable_adapters or self.merged:
            return result
        for adapter in self.active_adapters:
            if adapter not in self.hiplora_A:
                continue
            core = self.effective_core(adapter)
            if self.price_recorder is not None:
                core = self.price_recorder(self, adapter, core)
            core = self.between(adapter, core)
            A, Ut = self.hiplora_A[adapter], self.hiplora_Ut[adapter]
            inputs = self.hiplora_dropout[adapter](self._cast_input_dtype(x, compute_dtype(x, A)))
            result = AddUpdate.apply(
                result,
                inputs,
                A,
                self.hiplora_B[adapter],
                core,
                Ut,
                self.hiplora_Vt[adapter],
                self.hiplora_settings[adapter].scaling,
            )
        return result

    def merge(self, safe_merge: bool = False, adapter_names: list[str] | None = None) -> None:
        """Add the updates to the base weight.

        The sum is taken in float32 and rounded once to the weight's dtype: in 16 bits `unmerge` gives the weight back
        only to rounding.

        Args:
            safe_merge: check first that the result is finite.
            adapter_names: the adapters to merge; the active ones by default.

        Raises:
            HiploraError: the result is not finite and `safe_merge` is set.
        """
        for adapter in check_adapters_to_merge(self, adapter_names):
            if adapter in self.hiplora_A:
                self._add_to_weight(adapter, +1, safe_merge)
                self.merged_adapters.append(adapter)

    def unmerge(self) -> None:
        """Subtract the merged updates from the base weight."""
        if not self.merged:
            warnings.warn("Already unmerged. Nothing to do.", stacklevel=2)
        while self.merged_adapters:
            adapter = self.merged_adapters.pop()
            if adapter in self.hiplora_A:
                self._add_to_weight(adapter, -1, check=False)

    @torch.no_grad()
    def _add_to_weight(self, adapter: str, sign: int, check: bool) -> None:
        weight = self.get_base_layer().weight
        delta = self.get_delta_weight(adapter)
        merged = (weight.to(torch.promote_types(weight.dtype, delta.dtype)) + sign * delta.to(weight.device)).to(
            weight.dtype
        )
        if check and not torch.isfinite(merged).all():
            raise HiploraError(f"Merging {adapter!r} makes {self.hiplora_records[adapter].module} NaN or infinite.")
        weight.copy_(merged)

    def __getstate__(self) -> dict[str, Any]:
        # The recorder watches this layer, not its copies in memory or in files.
        state: dict[str, Any] = super().__getstate__()
        state.pop("price_recorder", None)
        return state

    def __repr__(self) -> str:
        return "hiplora." + super().__repr__()
