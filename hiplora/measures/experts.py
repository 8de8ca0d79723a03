"""The experts of one parameter together: their updates, each on its own weight, as one row of a table."""

import re

import numpy as np
import pandas as pd

from hiplora.measures.summary import summed_blocks

_EXPERT = re.compile(r"(?P<parameter>.+)\[(?P<expert>\d+)\]")
_ROOT_OF_SQUARES = ("norm", "base_norm", "first_norm", "second_norm")
_MEAN_BY_ENERGY = ("left_share", "right_share", "enrichment_left", "enrichment_right", "mixed")
_MEAN = ("stable_rank", "effective_rank", "intruder_share", "cosine_pp", "cosine_rr", "overlap_left", "overlap_right")
_MAX = ("rank", "relative_spectral_norm", "cost", "tightness", "joint_tightness")
_MIN = ("intruder_scale",)
_SUM = ("share", "intruders")


def split_expert(module: str) -> tuple[str, int | None]:
    """Split the name of an expert's weight into the parameter and the expert's number; None for any other module.

    >>> split_expert("model.layers.0.mlp.experts.gate_up_proj[3]")
    ('model.layers.0.mlp.experts.gate_up_proj', 3)
    """
    match = _EXPERT.fullmatch(module)
    return (match["parameter"], int(match["expert"])) if match else (module, None)


def expert_table(table: pd.DataFrame) -> pd.DataFrame:
    """Return one row per update and parameter of experts: the sum over its experts.

    The columns are those of the table, and `experts`, their number. `module` is the parameter's name. Norms are those
    of all experts together, and shares are of their energy together, with the null as in `summary_table`. `rank`,
    `relative_spectral_norm`, `cost` and the tightnesses are the largest of an expert, `intruder_scale` the smallest,
    `intruders` and `share` the sum, `cosine` is that of all experts together, ranks of the energy, overlaps and other
    cosines are the experts' mean.

    Args:
        table: from `layer_table` or `difference_table`.
    """
    rows = table[table["expert"].notna()] if len(table) else table
    parameters = [split_expert(module)[0] for module in rows.get("module", ())]
    columns = [*table.columns, "experts"]
    if not parameters:
        return table.head(0).assign(experts=pd.Series(dtype="Int64"))
    groups = rows.groupby([rows["adapter"], pd.Series(parameters, rows.index)], sort=False, observed=True)
    sums = [_sum(group) | {"module": parameter} for (_, parameter), group in groups]
    return pd.DataFrame(sums)[columns].astype(table.dtypes.to_dict() | {"experts": "Int64"})


def with_expert_sums(table: pd.DataFrame) -> pd.DataFrame:
    """Return a table with the rows of `expert_table` in place of those of single experts, where the first stood.

    Args:
        table: from `layer_table` or `difference_table`.
    """
    sums = expert_table(table)
    if sums.empty:
        return table
    single = table[table["expert"].isna()]
    names = table["module"].map(lambda module: split_expert(module)[0])
    order = {key: place for place, key in reversed([*enumerate(zip(table["adapter"], names, strict=True))])}
    both = pd.concat([single, sums.drop(columns="experts")], ignore_index=True)
    places = [order[key] for key in zip(both["adapter"], both["module"], strict=True)]
    return both.iloc[np.argsort(places)].reset_index(drop=True)


def _sum(group: pd.DataFrame) -> dict[str, object]:
    has = set(group.columns)
    energy = group["norm"] ** 2
    weight = energy / (energy.sum() or np.nan)
    row: dict[str, object] = {str(name): value for name, value in group.iloc[0].items()}
    row |= {"expert": pd.NA, "experts": len(group)}
    row |= {column: float(np.sqrt((group[column] ** 2).sum())) for column in _ROOT_OF_SQUARES if column in has}
    row |= {column: (weight * group[column]).sum(min_count=1) for column in _MEAN_BY_ENERGY if column in has}
    row |= {column: group[column].mean() for column in _MEAN if column in has}
    row |= {column: group[column].max() for column in _MAX if column in has}
    row |= {column: group[column].min() for column in _MIN if column in has}
    row |= {column: group[column].sum(skipna=column == "share", min_count=1) for column in _SUM if column in has}
    if "cosine" in has:
        inner = (group["cosine"] * group["first_norm"] * group["second_norm"]).sum(min_count=1)
        size = float(row["first_norm"]) * float(row["second_norm"])  # type: ignore[arg-type]
        row["cosine"] = inner / size if size else np.nan
    return row | summed_blocks(group)
