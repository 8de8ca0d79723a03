"""Axes that figures have in common: layers, singular directions, and sizes over several decades."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from hiplora.figures.style import percent_format


def log_ticks(low: float, high: float) -> list[float]:
    """Return round numbers between two positive ones: powers of ten, with more in between if these are few.

    Args:
        low: where the axis begins.
        high: where it ends.
    """
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    span = math.log10(high / low)
    steps: tuple[float, ...] = (1, 1.2, 1.5, 2, 2.5, 3, 4, 5, 6, 8) if span < 0.7 else (1, 2, 5) if span <= 3 else (1,)
    return [tick for power in decades for step in steps if low <= (tick := step * 10.0**power) <= high]


def log_axis(values: pd.Series) -> dict[str, Any]:
    """Return settings of a logarithmic axis, labeled with round numbers.

    Args:
        values: what is drawn; only positive values count.
    """
    shown = values[values > 0]
    if shown.empty:
        return {}
    low, high = float(shown.min()), float(shown.max())
    ticks = log_ticks(low / 2, high * 2)
    if high > low and sum(low <= tick <= high for tick in ticks) < 2:
        # Too close together for round numbers of a logarithmic axis.
        step = 10.0 ** math.floor(math.log10(high - low))
        step *= 1 if (high - low) / step < 5 else 2
        ticks = [step * count for count in range(math.floor(low / step), math.ceil(high / step) + 1) if count]
    return {"type": "log", "tickvals": ticks, "ticktext": [f"{tick:g}" for tick in ticks]}


def spans_two_decades(values: pd.Series) -> bool:
    """Return whether the positive values differ more than a hundredfold, and their axis is logarithmic.

    Args:
        values: what is drawn.
    """
    shown = values[values > 0]
    return bool(shown.max() > 100 * shown.min())


def norm_axis(values: pd.Series, *, shares: bool = False) -> dict[str, Any]:
    """Return settings of an axis of norms: logarithmic where they span two decades, from zero otherwise.

    Args:
        values: what is drawn.
        shares: whether the norms are relative ones, to be labeled as percentages.
    """
    if spans_two_decades(values):
        axis = log_axis(values)
        return axis | {"ticktext": [f"{100 * tick:g} %" for tick in axis["tickvals"]]} if shares else axis
    return {"rangemode": "tozero"} | ({"tickformat": percent_format(float(values.max()))} if shares else {})


def layer_axis(layers: Sequence[int]) -> dict[str, Any]:
    """Return settings of an axis of layer numbers: whole numbers only, no more ticks than fit.

    Args:
        layers: the numbers drawn, repeated or not.
    """
    count = len(set(layers))
    return {"title": "Layer", "dtick": max(1, math.ceil(count / 16)), "tick0": 0}


def direction_axis(last: int) -> dict[str, Any]:
    """Return settings of a logarithmic axis, so that the leading directions are visible among hundreds.

    Args:
        last: the last direction drawn, counted from 1; ticks stand at powers of two.
    """
    powers = range(0, int(last).bit_length(), 1 if last <= 128 else 2)
    ticks = [2**power for power in powers]
    return {"type": "log", "range": [np.log10(0.8), np.log10(last * 1.1)], "tickvals": ticks, "tickangle": 0}
