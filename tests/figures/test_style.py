"""The visual language: colours that mean one thing, numbers that read as words."""

import pandas as pd
import plotly.graph_objects as go
import pytest

from hiplora import figures, learn
from hiplora.figures import style


def test_adapters_have_other_colours_than_the_channels() -> None:
    colors = figures.adapter_colors(pd.Series(["a", "b", "a", "c"]))
    assert list(colors) == ["a", "b", "c"]
    assert len({*colors.values(), style.PRINCIPAL, style.RESIDUAL, style.NULL}) == 6


def test_presented_figures_have_large_type_and_the_same_plot() -> None:
    figure = figures.rotation_effect(learn.rotation_effects(angles=(0, 30, 90)), 30)
    before = figure.to_json()
    shown = style.for_presentation(figure)
    assert figure.to_json() == before
    assert go.Figure(shown.data).to_json() == go.Figure(figure.data).to_json()
    for axis in (shown.layout.xaxis, shown.layout.yaxis):
        assert axis.tickfont.size == axis.title.font.size == 18
        assert axis.automargin
    assert shown.layout.legend.font.size == 18
    assert shown.layout.height > figure.layout.height


def test_adapters_differ_in_symbol_as_well() -> None:
    assert len(set(style.adapter_symbols(pd.Series(["a", "b", "c"])).values())) == 3


def test_well_known_methods_have_the_same_marks_in_every_table() -> None:
    known = {"LoRA": "circle", "LoRA+": "triangle-up", "rsLoRA": "square", "PiSSA": "star", "DoRA": "cross",
             "HiP-LoRA": "diamond"}  # fmt: skip
    for column in (["HiP-LoRA"], ["PiSSA", "new"], []):
        assert known.items() <= style.method_symbols(pd.Series(column, dtype=str)).items()


def test_new_methods_have_marks_of_their_own_whatever_the_order_of_the_rows() -> None:
    symbols = style.method_symbols(pd.Series(["new", "LoRA", "newer", "new"]))
    assert len(set(symbols.values())) == len(symbols) == 8
    assert style.method_symbols(pd.Series(["newer", "new"])) == symbols


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.0, "0"), (1.0, "1.0"), (5.84, "5.8"), (12.3, "12"), (99.7, "100"), (0.0123, "0.012"), (1e-7, "1.0e-07"),
     (float("nan"), "–")],
)  # fmt: skip
def test_words_carry_two_significant_digits(value: float, text: str) -> None:
    assert style.two_digits(value) == text


@pytest.mark.parametrize(
    ("share", "text"), [(1.0, "100 %"), (0.5, "50 %"), (0.0123, "1.2 %"), (0.0, "0 %"), (1e-9, "<0.001 %")]
)
def test_shares_are_percentages(share: float, text: str) -> None:
    assert style.percent(share).replace("\N{NO-BREAK SPACE}", " ") == text


def test_row_of_the_largest_passes_over_what_is_not_known() -> None:
    row = style.row_of_max(pd.DataFrame({"name": ["a", "b", "c"], "value": [1.0, float("nan"), 0.5]}), "value")
    assert row is not None
    assert row["name"] == "a"


def test_there_is_no_largest_where_nothing_is_known() -> None:
    assert style.row_of_max(pd.DataFrame({"value": [float("nan")]}), "value") is None


def test_lines_of_adapters_differ_by_dash_and_none_looks_like_chance() -> None:
    dashes = style.adapter_dashes(pd.Series(list("abcdef")))
    assert len(set(dashes.values())) == 6
    assert "dash" not in dashes.values()
    assert dashes["a"] == "solid"
