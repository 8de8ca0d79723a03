"""The Python shown under every figure of every page makes that very figure."""

import os
import re
from base64 import b64decode
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import plotly.graph_objects as go
import pytest
from streamlit.testing.v1 import AppTest

from hiplora import figures
from hiplora.demo.scored import ExactScores
from hiplora.effects import Scores, TaskLosses, TextLosses
from hiplora.paths import demo_adapters, site_root
from hiplora.study import open_study
from hiplora.study.python_code import code
from hiplora.training import Run, RunConfig
from hiplora.training.prices import price_table
from hiplora.training.train import train
from hiplora.ui import cards
from hiplora.ui.reallocation import Reallocation
from tests import numerics
from tests.waiting import LIMIT

BOTH = {"adapters": ["swap-lora", "swap-hiplora"]}


@dataclass
class Shown:
    """A card that a page showed: its name, what was drawn and the program below it."""

    name: str
    figure: go.Figure
    program: str


@pytest.fixture(scope="session")
def runs_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with one short HiP-LoRA run."""
    root = tmp_path_factory.mktemp("runs")
    config = RunConfig(
        base="demo", task="swap", steps=6, measure_every=2, save_every=2, score_every=6, evaluation_size=2
    )
    train(Run.create(root / "short", config))
    return root


@pytest.fixture
def show(monkeypatch: pytest.MonkeyPatch, runs_folder: Path) -> Iterator[Callable[..., list[Shown]]]:
    """Run a page with query parameters, budgets moved where that is asked for, and return its cards."""
    monkeypatch.setenv("HIPLORA_RUNS", str(runs_folder))
    found: list[Shown] = []
    shown_as_it_is = cards.figure_card

    def recorded(draw: Callable[..., go.Figure], table: Any, *args: Any, name: str, **chart: Any) -> None:
        figure = draw(table(), *(arg() if callable(arg) else arg for arg in args))
        found.append(Shown(name, figure, code(draw, table, *args)))
        shown_as_it_is(draw, table, *args, name=name, **chart)

    monkeypatch.setattr(cards, "figure_card", recorded)

    def visit(page: str, query: dict[str, Any], moved: "Reallocation | None") -> list[Shown]:
        app = AppTest.from_file(str(site_root() / "app.py"), default_timeout=LIMIT)
        for name, value in ({"base": "demo", "k": "16", **BOTH} | query).items():
            app.query_params[name] = value
        # The navigation is known once the frame has run.
        app.run()
        found.clear()
        if moved:
            app.session_state["reallocation"] = moved
        app.switch_page(f"pages/{page}.py").run()
        assert not app.exception, app.exception
        assert not app.error, app.error
        return found

    before = Path.cwd()
    os.chdir(site_root())
    yield visit
    os.chdir(before)


def drawn_by(program: str, monkeypatch: pytest.MonkeyPatch) -> go.Figure:
    """Run a program in a namespace of its own, and return the figure that it shows."""
    shown: list[go.Figure] = []
    monkeypatch.setattr(go.Figure, "show", lambda figure: shown.append(figure))
    exec(program, {})
    return shown[0]


def assert_same(found: Any, shown: Any, where: str) -> None:
    """Compare two figures, their numbers to rounding: the app measures ahead, at more directions at once."""
    if isinstance(shown, dict) and "bdata" in shown:
        assert_same(*(np.frombuffer(b64decode(array["bdata"]), array["dtype"]) for array in (found, shown)), where)
    elif isinstance(shown, dict):
        assert list(found) == list(shown), where
        for name in shown:
            assert_same(found[name], shown[name], f"{name} of {where}")
    elif isinstance(shown, list | tuple) or (isinstance(shown, np.ndarray) and shown.dtype == object):
        assert len(found) == len(shown), where
        for one, other in zip(found, shown, strict=True):
            assert_same(one, other, where)
    elif isinstance(shown, np.ndarray | float):
        np.testing.assert_allclose(found, shown, rtol=numerics.gamma(2, "float32"), atol=numerics.EXACT, err_msg=where)
    else:
        assert found == shown, where


# Page, query parameters, source of the moved budgets, cards that must be there.
PAGES: list[tuple[str, dict[str, Any], str, set[str]]] = [
    ("overview", {}, "", {"principal-share"}),
    (
        "spectrum",
        {},
        "",
        {"layer-map", "direction_energy", "cumulative_energy", "singular_values", "gains", "sweep"},
    ),
    ("spectrum", {"measure": "Intruder dimensions"}, "", {"layer-map"}),
    ("channels", {}, "", {"channel-norms", "channel-blocks"}),
    ("channels", {"kind": "mlp.down_proj"}, "", {"channel-norms"}),
    ("budget", {"power": "0.5"}, "", {"tightness", "cut", "ledger", "prices"}),
    ("budget", {}, "swap-hiplora", {"reallocated"}),
    ("train", {}, "", {"drift", "tightness-history", "norm-history", "prices"}),
    ("train", {}, "short", {"reallocated"}),
    (
        "compare",
        {"difference": "Cosine"},
        "",
        {"skills", "frontier", "difference-shares", "difference-map", "direction-energy", "octaves", "training"},
    ),
    ("compare", {"adapters": ["swap-lora", "short"]}, "", {"skills", "frontier", "training", "drift"}),
    ("merge", {}, "", {"merge-conflicts"}),
    ("learn", {}, "", {"learn-energy", "learn-effect"}),
    ("learn", {"part": "Budget"}, "", {"learn-budget"}),
    ("learn", {"part": "Merging"}, "", {"learn-merge-error", "learn-merge-typical"}),
    ("learn", {"part": "Why inputs matter"}, "", {"learn-views", "learn-damage"}),
    ("learn", {"part": "One sentence"}, "", {"learn-probe", "learn-tokens"}),
]


@pytest.mark.parametrize(("page", "query", "moved", "expected"), PAGES)
def test_the_program_below_every_figure_draws_that_figure(
    show: Callable[..., list[Shown]],
    monkeypatch: pytest.MonkeyPatch,
    page: str,
    query: dict[str, Any],
    moved: str,
    runs_folder: Path,
    expected: set[str],
) -> None:
    tables = {
        "swap-hiplora": partial(open_study("demo", ["swap-hiplora"], 16).reallocated, "swap-hiplora"),
        "short": partial(price_table, Run(runs_folder / "short")),
    }
    found = show(
        page, query, Reallocation(moved, "demo", tables[moved], {"model.layers.0.mlp.up_proj": 0.05}) if moved else None
    )
    assert expected <= {card.name for card in found}
    for card in found:
        assert_same(drawn_by(card.program, monkeypatch).to_plotly_json(), card.figure.to_plotly_json(), card.program)


def test_every_card_that_a_page_names_is_looked_at() -> None:
    sources = [*(site_root() / "pages").glob("*.py"), *Path(cards.__file__).parent.glob("*.py")]
    named = {name for path in sources for name in re.findall(r'name="([\w-]+)"', path.read_text())}
    # Computed on request only: the browser's tests ask for it.
    asked = {"block-effects", "energy-damage", "part-effects", "repair-outcomes"}
    asked |= {"merge-outcomes", "merge-balance-curve", "merge-fail", "merge-predictions"}
    assert named - asked <= {name for *_, names in PAGES for name in names}


def test_the_programs_of_scored_merges_draw_their_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    names, scores = ["swap-lora", "edit-lora"], ExactScores(2)
    study = open_study("demo", names, 16)
    for draw, table, *args in (
        (figures.merge_outcomes, partial(study.merge_outcomes, ["sum"], [1.0, 0.5], names=names, scores=scores)),
        (figures.merge_predictions, partial(study.merge_predictions, ["sum"], names=names, scores=scores)),
        (figures.merge_balance, partial(study.merge_balance, *names, "sum", scores=scores), 2),
        (figures.merge_fail, partial(study.merge_fail, ["sum"], 0.5, names=names, scores=scores)),
    ):
        program = code(draw, table, *args)
        assert_same(drawn_by(program, monkeypatch).to_plotly_json(), draw(table(), *args).to_plotly_json(), program)


def test_the_texts_of_tasks_are_written_by_adapter() -> None:
    study = open_study("demo", ["swap-lora", "edit-lora"], 16)
    scores = TaskLosses({"swap-lora": "swap.txt"}, tokens=512)
    program = code(figures.merge_outcomes, partial(study.merge_outcomes, ["sum"], scores=scores))
    assert "scores=effects.TaskLosses(task_texts={'swap-lora': 'swap.txt'}, tokens=512)" in program


def test_the_adapters_of_the_demo_are_named_in_a_program_not_pointed_at() -> None:
    study, beside = open_study("demo", ["swap-lora"], 16), [str(path) for path in demo_adapters()]
    program = code(figures.frontier, partial(study.frontier, "swap", beside=beside), study.names)
    assert f"beside={[path.name for path in demo_adapters()]}" in program
    assert str(site_root()) not in program


@pytest.mark.parametrize(
    ("scores", "imported", "written"),
    [
        (ExactScores(40), "from hiplora.demo import scored", "scored.ExactScores(size=40)"),
        (
            TextLosses("task.txt", tokens=512),
            "from hiplora import effects, figures",
            "effects.TextLosses(task_text='task.txt', tokens=512)",
        ),
    ],
)
def test_a_way_to_score_is_written_with_what_was_chosen(scores: Scores, imported: str, written: str) -> None:
    study = open_study("demo", ["swap-lora"], 16)
    program = code(figures.block_effects, partial(study.ablation, "swap-lora", scores))
    assert imported in program.splitlines()
    assert f"study.ablation('swap-lora', {written})" in program
