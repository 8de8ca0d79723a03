"""A core in the plane of its entries: inside the budget, or brought back to it."""

import plotly.graph_objects as go
import pytest

from hiplora import figures, learn
from hiplora.figures import style

from .reading import numbers, same, traces


def draw_budget(c11: float, c22: float, c12: float, epsilon: float = 0.05, power: float = 1.0) -> go.Figure:
    cores = learn.budget_cores(c11, c22, c12, epsilon, power)
    return figures.core_budget(cores, learn.budget_sections(cores["c12"], epsilon, power))


def test_cores_stand_where_their_entries_say() -> None:
    drawn = traces(draw_budget(0.1, -0.08, 0.02))
    cores = learn.budget_cores(0.1, -0.08, 0.02).set_index("core")
    for name in ("raw", "effective"):
        assert numbers(drawn[f"{name} core"].x) == pytest.approx([cores["c11"][name]])
        assert numbers(drawn[f"{name} core"].y) == pytest.approx([cores["c22"][name]])


def test_budget_is_solid_at_the_raw_core_and_dotted_at_the_limited_one() -> None:
    figure = draw_budget(0.1, 0.08, 0.02)
    sections = learn.budget_sections(learn.budget_cores(0.1, 0.08, 0.02)["c12"])
    drawn = [trace for trace in figure.data if (trace.name or "").startswith("budget spent")]
    assert [trace.line.dash for trace in drawn] == ["solid", "dot"]
    for trace, (_, part) in zip(drawn, sections.groupby("c12", sort=False), strict=True):
        same(trace.x, part["c11"])
        same(trace.y, part["c22"])


def test_core_within_the_budget_passes_unchanged() -> None:
    figure = draw_budget(0.01, 0.01, 0.01)
    assert "within the budget" in figure.layout.title.text
    assert sum((trace.name or "").startswith("budget spent") for trace in figure.data) == 1


def test_title_says_how_much_the_limit_leaves() -> None:
    tight = learn.budget_cores(0.1, 0.08, 0)["tightness"].iloc[0]
    title = draw_budget(0.1, 0.08, 0).layout.title.text
    assert title.startswith(f"Tightness {style.two_digits(tight)}")
    assert f"to {style.percent(1 / tight)} of itself" in title


@pytest.mark.parametrize(
    ("c12", "power", "words"),
    [
        (0.0, 1.0, "the leading direction costs more"),
        (0.0, 0.0, "either of C₁₁ and C₂₂ alone can grow to"),
        (0.15, 1.0, "alone exceeds the budget"),
    ],
)
def test_subtitle_says_how_far_the_entries_may_go(c12: float, power: float, words: str) -> None:
    assert words in draw_budget(0.02, 0.02, c12, power=power).layout.title.subtitle.text
