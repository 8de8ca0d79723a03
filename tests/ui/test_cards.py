"""The Python shown under a figure makes that very figure."""

from pathlib import Path

import plotly.graph_objects as go
import pytest

from hiplora import figures, measures
from hiplora.analysis import analyze, directions
from hiplora.paths import demo_adapters
from hiplora.ui import cards, data
from hiplora.ui.session import Session

MODULE = "model.layers.1.mlp.down_proj"


@pytest.fixture
def loaded() -> data.Loaded:
    paths = tuple(path for path in demo_adapters() if path.name.startswith("swap-"))
    return data.load(Session(base="demo", download=False, adapters=paths, k=8, epsilon=0.02))


def run(snippet: str, monkeypatch: pytest.MonkeyPatch) -> go.Figure:
    shown: list[go.Figure] = []
    monkeypatch.setattr(go.Figure, "show", lambda figure: shown.append(figure))
    exec(snippet, {})
    return shown[0]


def test_snippet_of_a_layer_table_makes_the_figure(loaded: data.Loaded, monkeypatch: pytest.MonkeyPatch) -> None:
    snippet = cards.snippet(loaded, "tightness_by_layer(table)", power=0.5)
    assert len(snippet.splitlines()) == 3
    table = analyze("demo", [a.path for a in loaded.adapters], k=8, epsilon=0.02, power=0.5)
    assert run(snippet, monkeypatch) == figures.tightness_by_layer(table)


def test_snippet_of_one_module_makes_the_figure(loaded: data.Loaded, monkeypatch: pytest.MonkeyPatch) -> None:
    snippet = cards.snippet(loaded, "gains(table, k=8)", source="directions", module=MODULE)
    table = directions("demo", [a.path for a in loaded.adapters], MODULE, k=8)
    assert run(snippet, monkeypatch) == figures.gains(table, 8)


def test_snippet_imports_measures_where_it_needs_them(loaded: data.Loaded, monkeypatch: pytest.MonkeyPatch) -> None:
    snippet = cards.snippet(loaded, "principal_share(measures.summary_table(table), k=8)")
    table = measures.summary_table(analyze("demo", [a.path for a in loaded.adapters], k=8))
    assert run(snippet, monkeypatch) == figures.principal_share(table, 8)


def test_one_unreadable_adapter_leaves_the_others(tmp_path: Path) -> None:
    good = next(path for path in demo_adapters() if path.name == "swap-lora")
    loaded = data.load(Session("demo", False, (good, tmp_path / "nowhere"), 8, 0.05))
    assert [adapter.name for adapter in loaded.adapters] == ["swap-lora"]
    assert loaded.problems == [f"{tmp_path / 'nowhere'} is not a folder: pass the adapter's folder, as "
                               "`save_pretrained` wrote it."]  # fmt: skip
