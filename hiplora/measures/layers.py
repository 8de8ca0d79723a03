"""The layer table: one row per adapter and module, with every measure of METHOD.md section 4 that one layer has."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import pandas as pd

from hiplora.adapters import Adapter, Delta
from hiplora.budget import budget_cost, tightness
from hiplora.errors import HiploraError
from hiplora.measures.channels import Channels, channels
from hiplora.measures.intruders import Intruders, intruder_dimensions
from hiplora.measures.null import Null, isotropic_null
from hiplora.measures.ranks import effective_rank, energy_shares, stable_rank
from hiplora.sources import BaseModel, Weight, layer_and_kind, with_stack
from hiplora.sources.base import in_data_order
from hiplora.spectrum import Spectrum
from hiplora.spectrum.prepare import BaseSpectra

DEFAULT_EPSILON = 0.05
"""Budget of an adapter that states none (a plain LoRA), the default of `HipLoraConfig`."""


@dataclass(frozen=True)
class Measurement:
    """What one adapter does to one weight, at one `k`; a smaller one is cheap (`truncate`), as is another budget.

    Attributes:
        adapter: name of the adapter.
        method: its method.
        module: name of the module in the base.
        shape: `(m, n)`.
        rank: most that the rank of the update can be.
        channels: the energies by direction, the four blocks and the core.
        sigma: (k,), leading singular values of the weight.
        frobenius: `||W0||_F`.
        singular_values: of the update, falling.
        epsilon: the adapter's own budget for this module, None when it states none.
        intruders: None unless asked for.
    """

    adapter: str
    method: str
    module: str
    shape: tuple[int, int]
    rank: int
    channels: Channels
    sigma: np.ndarray
    frobenius: float
    singular_values: np.ndarray
    epsilon: float | None = None
    intruders: Intruders | None = None

    @cached_property
    def null(self) -> Null:
        """Of the principal block's share."""
        return isotropic_null(len(self.sigma), self.shape, energy_shares(self.singular_values))

    def truncate(self, k: int) -> "Measurement":
        """Return the measurement at a smaller `k`, to rounding what `measure` gives there.

        Raises:
            ValueError: `k` is not between 1 and the present one.
        """
        return replace(self, channels=self.channels.truncate(k), sigma=self.sigma[:k])

    def row(self, epsilon: float | None = None, power: float = 1.0) -> dict[str, object]:
        """Return one row of the layer table.

        Args:
            epsilon: budget; None for the adapter's own.
            power: `p` of the budget's weights.
        """
        m, n = self.shape
        k, s, parts, null = len(self.sigma), self.singular_values, self.channels, self.null
        layer, kind = layer_and_kind(self.module)
        used_epsilon = epsilon or self.epsilon or DEFAULT_EPSILON
        cost = budget_cost(parts.core, self.sigma, power)
        norm = math.sqrt(parts.total)
        pp, pr, rp, rr = (parts.share(block) for block in ("pp", "pr", "rp", "rr"))
        return {
            "adapter": self.adapter,
            "method": self.method,
            "module": self.module,
            "layer": layer,
            "kind": kind,
            "rows": m,
            "cols": n,
            "rank": self.rank,
            "principal_rank": k,
            "norm": norm,
            "relative_norm": _ratio(norm, self.frobenius),
            "relative_spectral_norm": _ratio(float(s[0]), float(self.sigma[0])),
            "pp": pp,
            "pr": pr,
            "rp": rp,
            "rr": rr,
            "left_share": pp + pr,
            "right_share": pp + rp,
            "enrichment": pp / (k * k / (m * n)),
            "enrichment_left": (pp + pr) / (k / m),
            "enrichment_right": (pp + rp) / (k / n),
            "pp_null": null.mean,
            "pp_null_sd": null.sd,
            "pp_null_low": null.low,
            "pp_null_high": null.high,
            "cost": cost,
            "epsilon": used_epsilon,
            "tightness": tightness(cost, used_epsilon),
            "stable_rank": stable_rank(s),
            "effective_rank": effective_rank(s),
            "base_norm": self.frobenius,
            "intruders": self.intruders.count if self.intruders else None,
            "intruder_share": self.intruders.share if self.intruders else None,
        }


def measure(
    spectrum: Spectrum,
    delta: Delta,
    k: int,
    *,
    adapter: str = "",
    method: str = "",
    module: str = "",
    epsilon: float | None = None,
    intruders: bool = False,
) -> Measurement:
    """Measure one update on one weight.

    Args:
        spectrum: of the weight, at least `k` triplets; complete when `intruders` are asked for.
        delta: (m, n), of the weight's shape.
        k: principal rank.
        adapter: name, for the table.
        method: name, for the table.
        module: name, for the table.
        epsilon: the adapter's own budget, if it has one.
        intruders: whether to count intruder dimensions too (a decomposition of `W0 + dW`).

    Raises:
        ValueError: shapes differ, or the spectrum is too short.
    """
    if delta.shape != spectrum.shape:
        raise ValueError(f"update of shape {delta.shape} on a weight of shape {spectrum.shape}")
    head = spectrum.truncate(k)
    return Measurement(
        adapter=adapter,
        method=method,
        module=module,
        shape=spectrum.shape,
        rank=delta.rank,
        channels=channels(delta, head.Ut, head.Vt),
        sigma=head.sigma,
        frobenius=spectrum.frobenius,
        singular_values=delta.singular_values,
        epsilon=epsilon,
        intruders=intruder_dimensions(spectrum, delta) if intruders else None,
    )


def measure_layers(
    spectra: BaseSpectra,
    adapters: Sequence[Adapter],
    k: int,
    *,
    intruders: bool = False,
) -> list[Measurement]:
    """Measure several adapters on one base, weight by weight, so that memory follows the largest.

    Returns one measurement per adapter and module: adapters in the order given, modules in data order.

    Args:
        spectra: the base's spectra; what is missing is computed.
        adapters: which.
        k: principal rank, for all modules.
        intruders: whether to count intruder dimensions; needs complete spectra.

    Raises:
        HiploraError: an adapter does not fit the base, holds NaN, or `k` is larger than a layer.
    """
    plan: dict[str, list[tuple[Adapter, str, Weight]]] = {}
    for adapter in adapters:
        for module, weight in matched_weights(spectra.base, adapter).items():
            plan.setdefault(weight.module, []).append((adapter, module, weight))
    chosen = in_data_order(plan)
    require_rank((plan[name][0][2] for name in chosen), k)
    found: dict[str, list[Measurement]] = {adapter.name: [] for adapter in adapters}
    for name in chosen:
        weight = plan[name][0][2]
        spectrum = spectra.get(weight, None if intruders else k)
        for adapter, module, _ in plan[name]:
            found[adapter.name].append(
                measure(
                    spectrum,
                    update_of(spectra.base, adapter, module, weight),
                    k,
                    adapter=adapter.name,
                    method=adapter.method,
                    module=name,
                    epsilon=adapter.epsilon(module),
                    intruders=intruders,
                )
            )
    return [measurement for of_one in found.values() for measurement in of_one]


def changed_weights(base: BaseModel, adapters: Iterable[Adapter], k: int) -> list[Weight]:
    """Return the weights of a base that adapters change, each once: what `measure_layers` needs the spectra of.

    Args:
        base: the model.
        adapters: which.
        k: principal rank that they will be measured at.

    Raises:
        HiploraError: an adapter does not fit the base, or `k` is larger than a layer.
    """
    found = {w.module: w for adapter in adapters for w in matched_weights(base, adapter).values()}
    weights = [found[module] for module in in_data_order(found)]
    require_rank(weights, k)
    return weights


def require_rank(weights: Iterable[Weight], k: int) -> None:
    """Raise when `k` is larger than one of the weights.

    Raises:
        HiploraError: naming the smallest weight.
    """
    smallest = min(weights, key=lambda weight: min(weight.shape), default=None)
    if smallest is not None and k > min(smallest.shape):
        m, n = smallest.shape
        raise HiploraError(f"k={k} is larger than {smallest.module} ({m} x {n}): use at most {min(m, n)}.")


def layer_table(
    measurements: Iterable[Measurement], *, epsilon: float | None = None, power: float = 1.0
) -> pd.DataFrame:
    """Return the tidy table: one row per adapter and module.

    Args:
        measurements: from `measure_layers`.
        epsilon: budget for all; None for each adapter's own (`DEFAULT_EPSILON` where it states none).
        power: `p` of the budget's weights.
    """
    table = pd.DataFrame([measurement.row(epsilon, power) for measurement in measurements])
    if len(table) and table.duplicated(["adapter", "layer", "kind"]).any():
        table["kind"] = with_stack(table["module"])
    return table.astype({"layer": "Int64", "intruders": "Int64", "intruder_share": "float64"}) if len(table) else table


def matched_weights(base: BaseModel, adapter: Adapter) -> dict[str, Weight]:
    """Return `{module of the adapter: weight of the base}`.

    Raises:
        HiploraError: no module is in the base, or a module's shape differs: the adapter is of another base.
    """
    found = {module: weight for module in adapter.modules if (weight := base.find(module)) is not None}
    says = f" (it names {adapter.base_name})" if adapter.base_name else ""
    if not found:
        raise HiploraError(
            f"{adapter.path} belongs to another base{says}: none of its modules, such as {adapter.modules[0]}, is in "
            f"{base.name}."
        )
    for module, weight in found.items():
        shape = adapter.shape(module)
        if shape != weight.shape:
            raise HiploraError(
                f"{adapter.path} belongs to another base{says}: {module} is {shape[0]} x {shape[1]} there and "
                f"{weight.shape[0]} x {weight.shape[1]} in {base.name}."
            )
    return found


def update_of(base: BaseModel, adapter: Adapter, module: str, weight: Weight) -> Delta:
    """Return what an adapter adds to one weight of a base; the weight is read only for an adapter that needs it.

    Args:
        base: the model.
        adapter: one that fits it.
        module: name of the module in the adapter.
        weight: what the base has there, by `matched_weights`.

    Raises:
        HiploraError: NaN or infinity in the adapter or the weight, or one of them cannot be read.
    """
    return adapter.delta(module, base.read(weight) if adapter.needs_base else None)


def _ratio(value: float, scale: float) -> float:
    return value / scale if scale > 0 else float("nan")
