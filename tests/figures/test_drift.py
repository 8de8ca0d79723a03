"""The principal share over the steps: which panel, which line, which chance, and the sentence above."""

import numpy as np
import pandas as pd
import pytest

from hiplora.figures import adapter_colors, principal_drift
from hiplora.measures import MEASURES
from tests.figures.reading import lines_in, panel, same

SHARE, ENRICHMENT = MEASURES["pp"], MEASURES["enrichment"]


def drift(
    *runs: str, steps: tuple[int, ...] = (2, 4, 6), geometries: tuple[str, ...] = ("weights", "inputs")
) -> pd.DataFrame:
    rows = [
        {
            "run": run,
            "method": "LoRA",
            "principal_rank": 16,
            "step": step,
            "geometry": geometry,
            "text": "lines" if geometry == "inputs" else "",
            "relative_norm": 0.01 * step,
            "pp": 0.01 * step * (1 + place),
            "pp_null": 0.02,
            "pp_null_low": 0.01,
            "pp_null_high": 0.03,
            "enrichment": 0.5 * step * (1 + place),
        }
        for place, run in enumerate(runs)
        for step in steps
        for geometry in geometries
    ]
    return pd.DataFrame(rows).astype({"run": pd.CategoricalDtype([*runs, "waits"])})


TABLE = drift("plain", "ours")


def said(table: pd.DataFrame) -> str:
    title: str = principal_drift(table, 10, SHARE).layout.title.text
    return title


@pytest.mark.parametrize("measure", [SHARE, ENRICHMENT], ids=["share", "enrichment"])
def test_each_geometry_has_a_panel_with_a_line_for_each_run(measure) -> None:
    figure = principal_drift(TABLE, 10, measure)
    for geometry in ("weights", "inputs"):
        lines = lines_in(figure, panel(figure, f"blocks of the {geometry}"))
        for run in ("plain", "ours"):
            part = TABLE[(TABLE["run"] == run) & (TABLE["geometry"] == geometry)]
            same(lines[run].x, part["step"])
            same(lines[run].y, part[measure.column])
            assert lines[run].line.color == adapter_colors(TABLE["run"])[run]
    assert list(figure.layout.xaxis.range) == [0, 10]


@pytest.mark.parametrize(("measure", "mean", "edges"), [(SHARE, 0.02, (0.01, 0.03)), (ENRICHMENT, 1, (0.5, 1.5))])
def test_chance_is_drawn_with_its_band_in_the_unit_of_the_line(measure, mean, edges) -> None:
    figure = principal_drift(TABLE, 10, measure)
    line, band = (lines_in(figure, "x")[name] for name in ("by chance, 95 % band", "95 % band"))
    np.testing.assert_allclose(line.y, mean, rtol=1e-6)
    np.testing.assert_allclose(sorted(set(np.asarray(band.y, float))), edges, rtol=1e-6)
    assert sum(trace.showlegend is True for trace in figure.data if trace.name == line.name) == 1


def test_legend_names_each_run_once_even_where_it_is_in_the_second_panel_alone() -> None:
    only_inputs = drift("late", geometries=("inputs",)).assign(run="ours")
    table = pd.concat([drift("plain"), only_inputs]).astype({"run": pd.CategoricalDtype(["plain", "ours"])})
    figure = principal_drift(table, 10, SHARE)
    assert sorted(trace.name for trace in figure.data if trace.showlegend and trace.name in ("plain", "ours")) == [
        "ours",
        "plain",
    ]


def test_geometry_that_was_not_recorded_has_no_panel() -> None:
    figure = principal_drift(drift("plain", geometries=("weights",)), 10, SHARE)
    assert [note.text for note in figure.layout.annotations] == ["blocks of the weights"]
    assert "Inputs:" not in figure.layout.title.subtitle.text


def test_finding_is_of_the_last_step_that_all_lines_have() -> None:
    assert said(TABLE) == (
        "At step 6 plain has 3.0 times chance in the principal block of the weights and 3.0 times in that of the "
        "inputs; ours 6.0 and 6.0 times."
    )
    behind = TABLE[(TABLE["run"] == "plain") | (TABLE["step"] < 5)]
    assert said(behind).startswith("At step 4 plain has 2.0 times")
    apart = TABLE[(TABLE["run"] == "plain") == (TABLE["step"] < 5)]
    assert said(apart) == "The runs have no step in common yet."


def test_run_with_one_geometry_says_which() -> None:
    table = TABLE[(TABLE["run"] == "plain") | (TABLE["geometry"] == "weights")]
    assert said(table).endswith("; ours has 6.0 times chance in the principal block of the weights.")


def test_size_stands_beside_the_share() -> None:
    subtitle = principal_drift(TABLE, 10, SHARE).layout.title.subtitle.text
    assert "Relative norm then: plain 0.060, 0.060 on inputs; ours 0.060, 0.060 on inputs." in subtitle
