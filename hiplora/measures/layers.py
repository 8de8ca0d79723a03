"""The layer table: one row per update and module, with every per-layer measure of METHOD.md section 4."""

from collections.abc import Iterable, Sequence

import pandas as pd

from hiplora.adapters import Placement
from hiplora.measures.experts import split_expert
from hiplora.measures.measure import Measure
from hiplora.measures.measurement import Measurement, measure
from hiplora.measures.registry import MEASURES
from hiplora.sources import Weight, layer_and_kind, with_stack
from hiplora.sources.base import in_data_order
from hiplora.spectrum import BaseSpectra
from hiplora.spectrum.blas import one_blas_thread


def measure_layers(
    spectra: BaseSpectra, placements: Sequence[Placement], k: int, *, optional: Sequence[Measure] = ()
) -> list[Measurement]:
    """Measure several updates on one base, weight by weight, so that memory follows the largest.

    Returns one measurement per update and module: updates in the order given, modules in data order.

    Args:
        spectra: the base's spectra; what is missing is computed.
        placements: the updates on that base.
        k: principal rank for all modules; one that has fewer directions is measured at all it has.
        optional: slow measures to compute too; they need complete spectra.

    Raises:
        HiploraError: an update holds NaN.
    """
    found: dict[str, list[Measurement]] = {placement.update.name: [] for placement in placements}
    with one_blas_thread():
        for weight in changed_weights(placements):
            spectrum = spectra.get(weight, None if optional else k)
            for placement in placements:
                if placement.changes(weight):
                    found[placement.update.name].append(
                        measure(
                            spectrum,
                            placement.delta(weight.module),
                            k,
                            adapter=placement.update.name,
                            method=placement.update.method,
                            module=weight.module,
                            epsilon=placement.epsilon(weight.module),
                            optional=optional,
                        )
                    )
    return [measurement for of_one in found.values() for measurement in of_one]


def changed_weights(placements: Iterable[Placement]) -> list[Weight]:
    """Return the weights changed by updates, each once under each name, in data order."""
    found = dict.fromkeys(weight for placement in placements for weight in placement.weights)
    order = {module: place for place, module in enumerate(in_data_order({weight.module for weight in found}))}
    return sorted(found, key=lambda weight: order[weight.module])


def layer_table(
    measurements: Iterable[Measurement], *, epsilon: float | None = None, power: float = 1.0
) -> pd.DataFrame:
    """Return the tidy table: one row per update and module, with the columns of every measure.

    Args:
        measurements: from `measure_layers`.
        epsilon: budget for all; None for each update's own (`DEFAULT_EPSILON` where it states none).
        power: `p` of the budget's weights.

    Raises:
        HiploraError: `epsilon` or `power` is out of range.
    """
    table = pd.DataFrame([_row(measurement.under(epsilon, power)) for measurement in measurements])
    if table.empty:
        return table
    if table.duplicated(["adapter", "layer", "kind", "expert"]).any():
        table["kind"] = with_stack(split_expert(module)[0] for module in table["module"])
    optional = [column for chosen in MEASURES.values() if chosen.optional for column in (chosen.column, *chosen.beside)]
    counts = [chosen.column for chosen in MEASURES.values() if chosen.scale == "count"]
    return table.astype(dict.fromkeys(optional, "float64") | dict.fromkeys(["layer", "expert", *counts], "Int64"))


def _row(measurement: Measurement) -> dict[str, object]:
    parameter, expert = split_expert(measurement.module)
    layer, kind = layer_and_kind(parameter)
    return {
        "adapter": measurement.adapter,
        "method": measurement.method,
        "module": measurement.module,
        "layer": layer,
        "kind": kind,
        "expert": expert,
        "rows": measurement.shape[0],
        "cols": measurement.shape[1],
        "rank": measurement.rank,
        "principal_rank": measurement.k,
        **{column: value for chosen in MEASURES.values() for column, value in chosen.columns(measurement).items()},
    }
