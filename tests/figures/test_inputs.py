"""One update in two geometries, and its damage beside chance."""

import numpy as np

from hiplora import learn
from hiplora.figures import input_damage, two_views
from tests.figures.reading import numbers, traces

SILENT, BUSY = learn.two_views(0, 0.0), learn.two_views(0, 3.0)
DAMAGES = learn.input_damages(30, uses=(0.0, 1.0, 3.0))


def test_bars_are_the_shares_and_nothing_is_said_as_nothing() -> None:
    figure = two_views(SILENT, learn.PRINCIPAL_RANK)
    (bar,) = (trace for trace in figure.data if trace.type == "bar")
    np.testing.assert_allclose(numbers(bar.x), [1, 0], atol=1e-6)
    (words,) = (trace for trace in figure.data if trace.type == "scatter" and trace.mode == "text")
    assert words.text[1] == "no effect at all"
    assert words.x[1] > SILENT["pp_null_high"][1]
    assert figure.layout.title.text == "The weights say 24 times chance, the inputs do not notice it."
    assert two_views(BUSY, 4).layout.title.text == "The weights say 24 times chance, the inputs say 12 times."


def test_each_bar_has_its_own_chance() -> None:
    figure = two_views(BUSY, learn.PRINCIPAL_RANK)
    bands = [shape for shape in figure.layout.shapes if shape.type == "rect"]
    assert [(band.x0, band.x1) for band in bands] == list(
        BUSY[["pp_null_low", "pp_null_high"]].itertuples(index=False, name=None)
    )


def test_damage_is_drawn_relative_to_a_random_update_of_its_size() -> None:
    figure = input_damage(DAMAGES, 1.0)
    lines = traces(figure)
    np.testing.assert_allclose(numbers(lines["this update"].y), DAMAGES["damage"] / DAMAGES["null"])
    np.testing.assert_allclose(numbers(lines["by chance, 95 % band"].y), 1)
    assert lines["now"].x == (1.0,)
    assert "It changes outputs by 1.0" in figure.layout.title.text
