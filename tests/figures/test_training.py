"""Runs over their steps: tightness filling up, and the channels growing."""

import numpy as np
import pandas as pd
import pytest

from hiplora import figures
from hiplora.figures import style

from .reading import lines_in, numbers, panel, same, traces

MODULES = [f"model.layers.{layer}.{kind}" for layer in (0, 1) for kind in ("self_attn.q_proj", "mlp.up_proj")]
NORMS = {"principal_norm": "principal", "mixed_norm": "mixed", "residual_norm": "residual"}


def two_runs() -> pd.DataFrame:
    """Two runs, measured at steps 0, 4 and 8; in `ours` the second module of layer 1 spends most, in `plain` the first
    of layer 0. Each module of `ours` has norms 3, 0 and 6 at the end, of `plain` 3, 4 and 12."""
    rows = []
    for run, price, factor, norms in (("plain", np.nan, 2.0, (3.0, 4.0, 12.0)), ("ours", 0.5, 0.62, (3.0, 0.0, 6.0))):
        for step in (0, 4, 8):
            for place, module in enumerate(MODULES):
                share = step / 8
                rank = place if run == "ours" else 3 - place
                rows.append(
                    {
                        "run": run,
                        "step": step,
                        "module": module,
                        "layer": int(module.split(".")[2]),
                        "kind": module.split(".", 3)[3],
                        "tightness": share * factor * (rank + 1) / 4,
                        "shadow_price": price,
                        **{name: share * norm for name, norm in zip(NORMS, norms, strict=True)},
                    }
                )
    return pd.DataFrame(rows).astype({"run": pd.CategoricalDtype(["plain", "ours"])})


@pytest.fixture
def history() -> pd.DataFrame:
    return two_runs()


@pytest.mark.parametrize("run", ["plain", "ours"])
def test_cells_are_the_tightness_of_a_module_at_a_step(history: pd.DataFrame, run: str) -> None:
    figure = figures.tightness_history(history, 16)
    axis = panel(figure, run)
    grid = next(trace for trace in figure.data if trace.type == "heatmap" and (trace.xaxis or "x") == axis)
    assert list(grid.x) == [0, 4, 8]
    expected = history[history["run"] == run].pivot_table(index="module", columns="step", values="tightness")
    expected = expected.reindex(MODULES)
    np.testing.assert_allclose(2.0 ** numbers(grid.z)[:, 1:], expected.to_numpy()[:, 1:], rtol=1e-6)
    assert np.isnan(numbers(grid.z)[:, 0]).all()
    assert [row[0][0] for row in grid.customdata] == MODULES


def test_one_colour_scale_has_the_budget_in_its_middle(history: pd.DataFrame) -> None:
    figure = figures.tightness_history(history, 16)
    assert {trace.coloraxis for trace in figure.data} == {"coloraxis"}
    axis = figure.layout.coloraxis
    assert axis.cmin == -axis.cmax
    assert axis.colorbar.ticktext[list(axis.colorbar.tickvals).index(0)] == "1.0×"


def test_steps_to_come_are_left_empty(history: pd.DataFrame) -> None:
    for figure in (figures.tightness_history(history, 16), figures.norm_history(history, 16)):
        assert {tuple(axis.range) for axis in figure.select_xaxes()} == {(0, 16)}


def test_layers_are_named_where_they_begin(history: pd.DataFrame) -> None:
    axis = figures.tightness_history(history, 16).layout.yaxis
    assert (list(axis.tickvals), list(axis.ticktext)) == ([0, 2], ["0", "1"])
    assert axis.range[0] > axis.range[1]


def test_tightness_title_names_the_tightest_module_of_each_run(history: pd.DataFrame) -> None:
    title = figures.tightness_history(history, 16).layout.title.text
    assert f"plain would spend {style.percent(2.0)} of a budget at most, in layers.0.self_attn.q_proj" in title
    assert f"ours spends {style.percent(0.62)} of its budget at most, in layers.1.mlp.up_proj" in title


def test_before_the_first_step_nothing_is_spent(history: pd.DataFrame) -> None:
    start = history[history["step"] == 0]
    title = figures.tightness_history(start, 16).layout.title.text
    assert title == "plain spends none of its budget yet; ours spends none of its budget yet."


def test_run_without_a_measurement_keeps_an_empty_panel(history: pd.DataFrame) -> None:
    alone = history[history["run"] == "ours"]
    figure = figures.tightness_history(alone, 16)
    assert {trace.xaxis for trace in figure.data} == {panel(figure, "ours")}
    assert panel(figure, "plain") != panel(figure, "ours")
    assert "plain –" in figures.norm_history(alone, 16).layout.title.text


@pytest.mark.parametrize("column", list(NORMS))
@pytest.mark.parametrize("run", ["plain", "ours"])
def test_norms_are_the_root_of_the_sum_of_squares_over_modules(history: pd.DataFrame, run: str, column: str) -> None:
    figure = figures.norm_history(history, 16)
    line = next(line for name, line in lines_in(figure, panel(figure, run)).items() if name.startswith(NORMS[column]))
    part = history[history["run"] == run]
    expected = (part[column] ** 2).groupby(part["step"]).sum() ** 0.5
    assert list(line.x) == [0, 4, 8]
    same(line.y, expected.where(expected > 0))


def test_channels_wear_their_colours(history: pd.DataFrame) -> None:
    colors = {name.split()[0]: line.line.color for name, line in traces(figures.norm_history(history, 16)).items()}
    assert colors == {"principal": style.PRINCIPAL, "mixed": style.MIXED[0], "residual": style.RESIDUAL}


def test_norm_title_puts_the_principal_over_the_residual_channel_at_the_end(history: pd.DataFrame) -> None:
    title = figures.norm_history(history, 16).layout.title.text
    assert f"plain {style.percent(0.25)}, ours {style.percent(0.5)}" in title
