"""The page Learn: what is drawn is the tables' own numbers, and the present position is marked."""

import pandas as pd
import plotly.graph_objects as go
import pytest

from hiplora import figures, learn
from hiplora.figures import style

from .reading import level_lines, lines_in, numbers, panel, same, shapes, traces

K = learn.PRINCIPAL_RANK
ANGLE = 30


def marked_at(figure: go.Figure) -> set[float]:
    """Return the places of the vertical lines."""
    return {shape.x0 for shape in shapes(figure, "line") if shape.x0 == shape.x1}


def test_bars_are_the_energy_of_the_directions_in_the_colours_of_the_channels() -> None:
    table = learn.rotation_directions(ANGLE, p=2, q=9)
    drawn = traces(figures.rotation_energy(table, K))
    for name, color, part in (
        ("principal directions", style.PRINCIPAL, table[table["direction"] <= K]),
        ("residual directions", style.RESIDUAL, table[table["direction"] > K]),
    ):
        same(drawn[name].x, part["direction"])
        same(drawn[name].y, part["right"])
        assert drawn[name].marker.color == color


def test_energy_stands_beside_its_mean_by_chance_and_the_title_sums_it_up() -> None:
    figure = figures.rotation_energy(learn.rotation_directions(ANGLE), K)
    assert level_lines(figure) == {"x": pytest.approx(1 / 16)}
    assert f"{style.percent(0.75)} of the update's energy lies on principal directions" in figure.layout.title.text
    assert f"{style.percent(0.25)} on residual" in figure.layout.title.text


CURVES = [
    ("rotation_effect", "typical", "typical inputs"),
    ("rotation_effect", "rare", "rare inputs (tail)"),
    ("merge_error", "first_error", "task of the first"),
    ("merge_error", "second_error", "task of the second"),
    ("merge_typical", "typical_merged", "both merged"),
]


@pytest.fixture(scope="module")
def effects() -> dict[str, pd.DataFrame]:
    angles = (0, ANGLE, 60, 90)
    merges = learn.merge_effects(angles)
    return {
        "rotation_effect": learn.rotation_effects(angles=angles),
        "merge_error": merges,
        "merge_typical": merges,
    }


@pytest.mark.parametrize(("name", "column", "trace"), CURVES)
def test_curve_is_the_column_and_the_mark_lies_on_it(
    effects: dict[str, pd.DataFrame], name: str, column: str, trace: str
) -> None:
    table = effects[name]
    figure = getattr(figures, name)(table, ANGLE)
    drawn = traces(figure)
    same(drawn[trace].x, table["angle"])
    same(drawn[trace].y, table[column])
    here = table[table["angle"] == ANGLE]
    same(drawn[f"{trace}, now"].x, here["angle"])
    same(drawn[f"{trace}, now"].y, here[column])
    assert marked_at(figure) == {ANGLE}
    assert style.percent(float(here[column].iloc[0])) in figure.layout.title.text


def test_first_adapter_alone_is_drawn_beside_the_merge(effects: dict[str, pd.DataFrame]) -> None:
    table = effects["merge_typical"]
    same(traces(figures.merge_typical(table, ANGLE))["the first alone"].y, table["typical_first"])


def test_what_is_below_single_precision_is_nothing_in_words(effects: dict[str, pd.DataFrame]) -> None:
    assert (
        "rare ones by 0\N{NO-BREAK SPACE}%" in figures.rotation_effect(effects["rotation_effect"], 0).layout.title.text
    )


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
    [(0.0, 1.0, "the leading direction is the dearer"), (0.0, 0.0, "may both reach"), (0.15, 1.0, "alone spends more")],
)
def test_subtitle_says_how_far_the_entries_may_go(c12: float, power: float, words: str) -> None:
    assert words in draw_budget(0.02, 0.02, c12, power=power).layout.title.subtitle.text


PROBED = pd.DataFrame(
    {
        "adapter": ["a-lora"] * 2 + ["a-hiplora"] * 2,
        "layer": [0, 1] * 2,
        "principal": [0.04, 0.02, 0.01, 0.03],
        "mixed": [0.06, 0.05, 1e-9, 1e-9],
        "residual": [0.05, 0.07, 0.08, 0.06],
    }
).astype({"layer": "Int64"})


@pytest.mark.parametrize("adapter", ["a-lora", "a-hiplora"])
@pytest.mark.parametrize(
    ("name", "column", "color"),
    [("principal channel", "principal", style.PRINCIPAL), ("residual channel", "residual", style.RESIDUAL)],
)
def test_channels_of_an_adapter_are_drawn_in_its_panel(adapter: str, name: str, column: str, color: str) -> None:
    figure = figures.probe_effects(PROBED)
    line = lines_in(figure, panel(figure, adapter))[name]
    part = PROBED[PROBED["adapter"] == adapter]
    same(line.x, part["layer"])
    same(line.y, part[column])
    assert line.line.color == color


def test_mixed_blocks_are_drawn_where_there_are_any() -> None:
    figure = figures.probe_effects(PROBED)
    same(lines_in(figure, panel(figure, "a-lora"))["mixed blocks"].y, PROBED["mixed"][:2])
    assert pd.isna(numbers(lines_in(figure, panel(figure, "a-hiplora"))["mixed blocks"].y)).all()


def test_probe_title_gives_each_channel_its_mean_over_layers() -> None:
    title = figures.probe_effects(PROBED).layout.title.text
    lora, hiplora = title.split("; ")
    assert all(style.percent(mean) in lora for mean in (0.03, 0.055, 0.06))
    assert all(style.percent(mean) in hiplora for mean in (0.02, 0.07))
    assert "mixed" not in hiplora


TOKENS = pd.DataFrame(
    {
        "text": ["rev ab="] * 6,
        "model": ["base"] * 2 + ["a-lora"] * 2 + ["a-hiplora"] * 2,
        "token": ["b", "a"] * 3,
        "probability": [0.9, 0.1, 0.2, 0.7, 0.6, 0.3],
    }
)


def test_bars_are_the_probabilities_of_each_model_in_its_own_colour() -> None:
    drawn = traces(figures.next_tokens(TOKENS))
    colors = style.adapter_colors(pd.Series(["a-lora", "a-hiplora"])) | {"base": style.BASE}
    for model, part in TOKENS.groupby("model"):
        assert list(drawn[model].x) == part["token"].tolist()
        same(drawn[model].y, part["probability"])
        assert drawn[model].marker.color == colors[model]


def test_next_title_names_the_likeliest_token_of_each_model() -> None:
    title = figures.next_tokens(TOKENS).layout.title.text
    for model, token, probability in (("base", "b", 0.9), ("a-lora", "a", 0.7), ("a-hiplora", "b", 0.6)):
        assert f"{model} “{token}” ({style.percent(probability)})" in title
