"""Adapters side by side: every mark is its row, colours keep their meaning, and the titles follow from the table."""

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import pytest

from hiplora import figures
from hiplora.adapters import LowRankDelta
from hiplora.figures import style
from hiplora.measures import DIFFERENCES, checkpoint_table, frontier_table

from .conftest import K, spectra
from .reading import filled_in, lines_in, numbers, panel, same, shapes, traces

ORDER = pd.CategoricalDtype(["a", "b", "unscored"])
SKILLS = pd.DataFrame(
    [
        ["a", "task", "swap", 1.0, np.nan],
        ["a", "skill", "copy", 0.9, 1.0],
        ["a", "skill", "rev", 0.4, 0.8],
        ["b", "task", "edit", 0.7, np.nan],
        ["b", "skill", "copy", 0.6, 1.0],
        ["b", "skill", "rev", 0.8, 0.8],
    ],
    columns=["adapter", "role", "skill", "score", "base"],
).astype({"adapter": ORDER})
FRONTIER = frontier_table(
    pd.DataFrame(
        [
            ["old", "LoRA", "swap", "", 0.99, 0.80],
            ["a", "LoRA", "swap", "", 1.00, 0.90],
            ["b", "HiP-LoRA", "swap", "λ = 10", 0.95, 0.97],
            ["c", "HiP-LoRA", "swap", "ε = 0.05", 0.90, 0.95],
        ],
        columns=["adapter", "method", "task", "budget", "task_score", "retention"],
    ).assign(seed=0.0, steps=300.0, relative_norm=0.1)
)
DIFFERENCE = pd.DataFrame(
    {
        "adapter": "a against b",
        "first": "a",
        "second": "b",
        "module": [f"model.layers.{i}.mlp.up_proj" for i in range(15)],
        "kind": "mlp.up_proj",
        "layer": pd.array(range(15), dtype="Int64"),
        "share": np.array([1, 2, 3, 30, 4, 5, 25, *[3.75] * 8]) / 100,
        "pp": 0.1,
        "mixed": 0.3,
        "rr": 0.6,
        "cosine": np.linspace(-0.5, 1, 15),
        "relative_norm": np.linspace(0.1, 0.24, 15),
    }
)
OCTAVES = pd.DataFrame(
    {
        "adapter": pd.Categorical(["a"] * 4 + ["b"] * 4, ORDER.categories),
        "start": [1, 2, 3, 0] * 2,
        "end": pd.array([1, 2, 3, None] * 2, dtype="Int64"),
        "left": [0.4, 0.2, 0.3, 0.1, 0.05, 0.25, 0.3, 0.4],
        "left_null": [0.1, 0.1, 0.2, 0.6] * 2,
        "left_null_low": [0.05, 0.05, 0.1, 0.5] * 2,
        "left_null_high": [0.2, 0.2, 0.3, 0.7] * 2,
        "right": [0.5, 0.2, 0.3, 0.0, 0.025, 0.625, 0.35, 0.0],
        "right_null": [0.25, 0.25, 0.5, 0.0] * 2,
        "right_null_low": [0.2, 0.2, 0.4, 0.0] * 2,
        "right_null_high": [0.3, 0.3, 0.6, 0.0] * 2,
    }
)


def checkpoints() -> pd.DataFrame:
    """Three steps of an update that grows, and moves from the random to the leading directions."""
    spectrum = next(iter(spectra().values()))
    rng = np.random.default_rng(2)
    L, R = 0.1 * rng.normal(size=(24, 2)), rng.normal(size=(2, 18))
    lead = [LowRankDelta(size * spectrum.Ut[:2].T, spectrum.Vt[:2]) for size in (0, 1, 10)]
    deltas = {
        step: LowRankDelta(np.hstack([L, delta.L]), np.vstack([R, delta.R]))
        for step, delta in zip((5, 10, 100), lead, strict=True)
    }
    return checkpoint_table(spectrum, deltas, "run")


STEPS = checkpoints()


def marks(figure: go.Figure, name: str) -> dict[str, float]:
    """Return `{row label: x}` of a trace whose marks lie near whole numbers."""
    trace, labels = traces(figure)[name], figure.layout.yaxis.ticktext
    return {labels[round(float(y))]: float(x) for x, y in zip(numbers(trace.x), numbers(trace.y), strict=True)}


def test_skills_draw_one_mark_per_adapter_and_score() -> None:
    figure = figures.skill_scores(SKILLS)
    assert marks(figure, "a") == pytest.approx({"its task": 1.0, "copy": 0.9, "rev": 0.4})
    assert marks(figure, "b") == pytest.approx({"its task": 0.7, "copy": 0.6, "rev": 0.8})
    assert marks(figure, "the base, before training") == pytest.approx({"copy": 1.0, "rev": 0.8})


def test_skills_title_says_what_is_kept_of_the_base() -> None:
    title = figures.skill_scores(SKILLS).layout.title.text.replace("\N{NO-BREAK SPACE}", " ")
    assert title == "Of the base's skills they keep: a 70 %, b 80 %."


def test_skills_have_the_colours_of_the_adapters_also_beside_unscored_ones() -> None:
    later = SKILLS.astype({"adapter": pd.CategoricalDtype(["unscored", "a", "b"])})
    colors = figures.adapter_colors(later["adapter"])
    assert traces(figures.skill_scores(later))["b"].marker.color == colors["b"]
    assert "unscored" not in traces(figures.skill_scores(later))


def test_equal_scores_do_not_hide_each_other() -> None:
    drawn = traces(figures.skill_scores(SKILLS.assign(score=1.0)))
    assert not set(numbers(drawn["a"].y)) & set(numbers(drawn["b"].y))


def test_adapters_with_a_task_score_alone_are_shown() -> None:
    figure = figures.skill_scores(SKILLS[SKILLS["role"] == "task"])
    assert list(figure.layout.yaxis.ticktext) == ["its task"]
    assert "a 100" in figure.layout.title.text


def test_a_base_without_a_card_has_no_marks() -> None:
    figure = figures.skill_scores(SKILLS.assign(base=np.nan))
    assert set(traces(figure)) == {"a", "b"}
    assert "a 65" in figure.layout.title.text


def points(figure: go.Figure) -> dict[str, tuple[float, float, str, float, str]]:
    """Return `{adapter: (x, y, symbol, size, colour)}` of the marks."""
    found = {}
    for trace in figure.data:
        if trace.customdata is not None:
            for i, row in enumerate(trace.customdata):
                place = float(numbers(trace.x)[i]), float(numbers(trace.y)[i])
                found[row[0]] = (*place, trace.marker.symbol, trace.marker.size[i], trace.marker.color[i])
    return found


def test_frontier_draws_task_score_against_retention() -> None:
    drawn = points(figures.frontier(FRONTIER, ["a", "b"]))
    for row in FRONTIER.to_dict("records"):
        assert drawn[row["adapter"]][:2] == pytest.approx((row["task_score"], row["retention"]))


def test_frontier_marks_methods_and_emphasises_the_chosen() -> None:
    figure = figures.frontier(FRONTIER, ["b", "a"])
    drawn, colors = points(figure), figures.adapter_colors(pd.Series(["b", "a"]))
    assert {name: mark[2] for name, mark in drawn.items()} == dict.fromkeys(["old", "a"], "circle") | dict.fromkeys(
        ["b", "c"], "diamond"
    )
    assert drawn["a"][3] > drawn["old"][3]
    assert (drawn["b"][4], drawn["a"][4], drawn["old"][4]) == (colors["b"], colors["a"], style.BASE)
    assert [note.text for note in figure.layout.annotations] == ["a", "b"]
    shown = [trace for trace in figure.data if trace.showlegend is not False]
    assert [trace.name for trace in shown] == ["not beaten in both", "LoRA", "HiP-LoRA"]
    assert {trace.marker.color for trace in shown[1:]} == {style.BASE}


def test_frontier_joins_what_no_other_beats() -> None:
    line = figures.frontier(FRONTIER).data[0]
    assert list(numbers(line.x)) == pytest.approx([0.95, 1.0])
    assert list(numbers(line.y)) == pytest.approx([0.97, 0.9])
    title = figures.frontier(FRONTIER, ["b", "c"]).layout.title.text
    assert title == "On swap, nothing at hand beats b and a; beaten: c."


@pytest.mark.parametrize("spread", [0.0, 0.001, 0.3])
def test_frontier_axes_tell_ticks_apart_and_do_not_reach_beyond_what_can_be_scored(spread: float) -> None:
    close = FRONTIER.assign(task_score=1.0, retention=np.linspace(1 - spread, 1, len(FRONTIER)))
    figure = figures.frontier(close, ["a"])
    for axis in (figure.layout.xaxis, figure.layout.yaxis):
        low, high = axis.range
        assert high - low >= 0.01
        assert 1 < high < 1.02
    assert figure.layout.xaxis.tickformat == ".1~%"


def test_frontier_tells_how_each_was_made() -> None:
    drawn = [trace for trace in figures.frontier(FRONTIER).data if trace.customdata is not None]
    said = {row[0]: filled_in(trace.hovertemplate, row) for trace in drawn for row in trace.customdata}
    assert "task swap" in said["c"]
    assert said["c"].endswith("300 steps, seed 0, ε = 0.05<br>relative norm 0.10<extra></extra>")
    assert said["a"].endswith("300 steps, seed 0, no budget<br>relative norm 0.10<extra></extra>")


def test_frontier_says_when_some_trained_longer() -> None:
    said = [
        figures.frontier(FRONTIER.assign(steps=steps)).layout.title.subtitle.text
        for steps in ([300.0, 300, np.nan, 300], [20.0, 300, np.nan, 300])
    ]
    assert "equally long" not in said[0]
    assert said[1].endswith("Not all trained equally long: 20 to 300 steps.")


def test_bars_are_the_modules_with_most_of_the_difference_split_by_channel() -> None:
    figure = figures.difference_shares(DIFFERENCE)
    ranked = DIFFERENCE.sort_values("share", ascending=False, kind="stable").head(12)
    assert list(figure.layout.yaxis.ticktext)[:2] == ["3.mlp.up_proj", "6.mlp.up_proj"]
    for name, column in (("principal", "pp"), ("mixed", "mixed"), ("residual", "rr")):
        same(traces(figure)[name].x, ranked["share"] * ranked[column])
    assert traces(figure)["principal"].marker.color == style.PRINCIPAL
    assert traces(figure)["residual"].marker.color == style.RESIDUAL
    same(traces(figure)["together so far"].x, ranked["share"].cumsum())


@pytest.mark.parametrize(
    ("shares", "words"),
    [
        ([0.3, 0.25, 0.25, 0.2], "2 of 4 modules hold 55 % of the difference; spread evenly it would be 50 %."),
        ([0.1, 0.7, 0.1, 0.1], "1 of 4 modules holds 70 % of the difference; spread evenly it would be 25 %."),
        ([0.25, 0.25, 0.25, 0.25], "2 of 4 modules hold 50 % of the difference; spread evenly it would be 50 %."),
        ([np.nan] * 4, "a and b do the same to every module."),
    ],
)
def test_title_counts_the_fewest_modules_that_hold_half(shares: list[float], words: str) -> None:
    figure = figures.difference_shares(DIFFERENCE.head(4).assign(share=shares))
    assert figure.layout.title.text.replace("\N{NO-BREAK SPACE}", " ") == words


def test_cosines_are_coloured_from_opposite_to_the_same() -> None:
    figure = figures.layer_map(DIFFERENCE, DIFFERENCES["cosine"])
    axis = figure.layout.coloraxis
    assert (axis.cmin, axis.cmax) == (-1, 1)
    same(np.array(figure.data[0].z)[0], DIFFERENCE["cosine"])


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("adapter", ["a", "b"])
def test_octaves_are_drawn_as_multiples_of_chance(side: str, adapter: str) -> None:
    figure = figures.octave_energy(OCTAVES)
    line = lines_in(figure, panel(figure, side))[adapter]
    part = OCTAVES[(OCTAVES["adapter"] == adapter) & (OCTAVES[f"{side}_null"] > 0)]
    assert list(line.x) == ["1", "2", "3", "beyond"][: len(part)]
    same(line.y, part[side] / part[f"{side}_null"])
    assert line.line.color == figures.adapter_colors(OCTAVES["adapter"])[adapter]


def test_octaves_stand_in_the_band_of_chance() -> None:
    figure = figures.octave_energy(OCTAVES)
    band = lines_in(figure, panel(figure, "left"))["95 % band"]
    assert list(band.y) == pytest.approx([2, 2, 1.5, 0.7 / 0.6, 0.5 / 0.6, 0.5, 0.5, 0.5])
    assert list(band.x) == ["1", "2", "3", "beyond", "beyond", "3", "2", "1"]


def test_octaves_keep_their_order_where_the_first_adapter_has_fewer() -> None:
    short = OCTAVES[~((OCTAVES["adapter"] == "a") & (OCTAVES["start"] == 3))]
    for axis in figures.octave_energy(short).select_xaxes():
        assert list(axis.categoryarray) == ["1", "2", "3", "beyond"]


def test_octave_title_names_where_each_is_furthest_above_chance() -> None:
    title = figures.octave_energy(OCTAVES).layout.title.text
    assert title == "Furthest above chance: a at direction 1 (3.0×), b at direction 2 (2.5×)."


def test_octaves_of_an_adapter_of_zeros_are_a_gap() -> None:
    silent = OCTAVES.assign(left=np.nan, right=np.nan)
    assert figures.octave_energy(silent).layout.title.text == "No adapter changes anything."


def test_there_is_a_frame_for_each_step_with_its_energies() -> None:
    figure = figures.training_spectrum(STEPS, K)
    assert [frame.name for frame in figure.frames] == ["5", "10", "100"]
    for frame in figure.frames:
        assert frame.traces == tuple(range(len(figure.data)))
        part = STEPS[STEPS["step"] == int(frame.name)]
        for trace, side in ((frame.data[0], "left"), (frame.data[3], "right")):
            same(trace.y, part[side].clip(lower=numbers(trace.y).min()))
        for trace, side in ((frame.data[2], "left"), (frame.data[5], "right")):
            assert numbers(trace.y) == pytest.approx([part[f"{side}_null"].iloc[0]] * 2)


def test_the_figure_opens_on_the_last_step_as_the_slider_does() -> None:
    figure = figures.training_spectrum(STEPS, K)
    for drawn, last in zip(figure.data, figure.frames[-1].data, strict=True):
        np.testing.assert_array_equal(numbers(drawn.y), numbers(last.y))
    (slider,) = figure.layout.sliders
    assert slider.active == 2
    assert [step.args[0][0] for step in slider.steps] == ["5", "10", "100"]


def test_the_axes_hold_for_all_steps() -> None:
    figure = figures.training_spectrum(STEPS, K)
    low, high = 10.0 ** numbers(figure.layout.yaxis.range)
    energies = pd.concat([STEPS["left"], STEPS["right"]])
    assert low < energies[energies > 0].min() or low == pytest.approx(energies.max() * 1e-7 / 2)
    assert high > energies.max()
    assert figure.layout.yaxis2.range == figure.layout.yaxis.range
    assert {shape.fillcolor for shape in shapes(figure, "rect")} == {style.PRINCIPAL}


def test_the_run_has_the_colour_of_its_place_among_the_adapters() -> None:
    placed = STEPS.astype({"run": pd.CategoricalDtype(["other", "run"])})
    figure = figures.training_spectrum(placed, K)
    assert figure.data[0].line.color == figures.adapter_colors(pd.Series(["other", "run"]))["run"]


def test_training_title_says_where_it_went() -> None:
    head = STEPS[STEPS["direction"] <= K].groupby("step")[["left_share", "right_share"]].sum().mean(axis=1)
    title = figures.training_spectrum(STEPS, K).layout.title.text
    assert f"from {style.percent(head[5])} to {style.percent(head[100])} of its energy on the top {K} " in title
