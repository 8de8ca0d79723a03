"""Scores: one mark per adapter and skill."""

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import pytest

from hiplora import figures

from .conftest import ORDER
from .reading import numbers, traces

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
    assert title == "Base skills kept: a 70 %, b 80 %."


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
