"""One module through its training: a frame per checkpoint on axes that hold for all."""

import numpy as np
import pandas as pd
import pytest

from hiplora import figures
from hiplora.adapters import LowRankDelta
from hiplora.figures import style
from hiplora.measures import checkpoint_table

from .conftest import K, spectra
from .reading import numbers, same, shapes


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
