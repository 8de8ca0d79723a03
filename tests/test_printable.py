"""Names that a stranger gave reach neither a terminal nor a spreadsheet as commands."""

import io

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hiplora.printable import apart, for_spreadsheet, printable


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("\x1b[2J\x1b]0;title\x07", "\\x1b[2J\\x1b]0;title\\x07"),
        ("a\rb\nc\td\x7f\x9b31m", "a\\rb\\nc\\td\\x7f\\x9b31m"),
        ("abc\N{RIGHT-TO-LEFT OVERRIDE}gpj", "abc\\u202egpj"),
        ("\udcff", "\\udcff"),
        ("ε = 5\N{NO-BREAK SPACE}% of größe 模型", "ε = 5\N{NO-BREAK SPACE}% of größe 模型"),
    ],
)
def test_what_a_terminal_obeys_is_escaped_and_all_else_is_kept(name: str, shown: str) -> None:
    assert printable(name) == shown


def test_text_that_would_be_a_formula_is_quoted_in_a_table_and_numbers_are_kept() -> None:
    names = ["=cmd|' /C calc'!A0", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1", "\uff1d1", "plain=1", None]
    table = pd.DataFrame(
        {"adapter": pd.Categorical(names), "module": names, "value": np.linspace(-1, 1, 9), "layer": range(9)}
    ).astype({"layer": "Int64"})
    found = for_spreadsheet(table)
    for column in ("adapter", "module"):
        assert [name[:1] for name in found[column].iloc[:7]] == ["'"] * 7
        assert found[column].iloc[:7].str[1:].tolist() == [*names[:4], "\\t=1", "\\r=1", "\uff1d1"]
        assert found[column].iloc[7] == "plain=1"
    pd.testing.assert_frame_equal(found[["value", "layer"]], table[["value", "layer"]])
    assert pd.read_csv(io.StringIO(found.to_csv(index=False)))["module"].isna().tolist() == [False] * 8 + [True]


RATIOS = st.floats(0.01, 100)


# Nearer than six decimals tell, two numbers are the same to a reader.
@given(RATIOS, RATIOS, st.floats(1e-5, 0.02), st.sampled_from([-1, 1]), st.booleans())
def test_a_value_reads_on_the_side_of_its_band_on_which_it_lies(one, other, off, side, at_low):
    low, high = sorted((one, other))
    value = (low if at_low else high) + side * off
    shown, least, most = map(float, apart(value, low, high))
    if min(abs(value - low), abs(value - high)) >= 1e-5:
        assert (shown < least, shown > most) == (value < low, value > high)


def test_what_is_not_known_is_a_dash_beside_its_band():
    assert apart(float("nan"), 0.9, 1.1) == ["–", "0.90", "1.10"]
