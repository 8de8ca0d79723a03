"""Axes: round numbers."""

import pytest

from hiplora.figures import axes


@pytest.mark.parametrize(
    ("low", "high", "ticks"),
    [
        (0.08, 0.19, [0.08, 0.1, 0.12, 0.15]),
        (0.5, 20, [0.5, 1, 2, 5, 10, 20]),
        (1e-3, 1e3, [1e-3, 1e-2, 0.1, 1, 10, 100, 1000]),
    ],
)
def test_logarithmic_axes_are_labelled_with_round_numbers(low: float, high: float, ticks: list[float]) -> None:
    assert axes.log_ticks(low, high) == pytest.approx(ticks)
