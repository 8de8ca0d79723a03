"""Shadow prices on the cards of adapters, and the budgets they move."""

import json
import shutil
from pathlib import Path

import plotly.graph_objects as go
import pytest

from hiplora import figures
from hiplora.measures import measure_layers
from hiplora.paths import demo_adapters
from hiplora.ui import data, reallocation
from hiplora.ui.session import Session

K = 16


def with_prices(folder: Path, card: dict[str, object]) -> data.Loaded:
    """The demo's two adapters of one task, the second with this card."""
    plain, ours = (
        next(path for path in demo_adapters() if path.name == name) for name in ("swap-lora", "swap-hiplora")
    )
    shutil.copytree(ours, folder / "priced")
    (folder / "priced" / "card.json").write_text(json.dumps(card))
    return data.load(Session("demo", False, (plain, folder / "priced"), K, 0.02))


def test_rows_are_the_prices_of_the_card_under_the_own_budget(tmp_path: Path) -> None:
    names = data.load(Session("demo", False, (), K, 0.02)).base.linear_maps
    prices = {module: float(place) for place, module in enumerate(names) if "layers" in module}
    loaded = with_prices(tmp_path, {"shadow_prices": prices})
    rows = reallocation.price_rows(loaded.adapters, measure_layers(loaded.spectra, loaded.adapters, K))
    assert set(rows["adapter"]) == {"priced"}
    assert dict(zip(rows["module"], rows["shadow_price"])) == prices
    assert rows["epsilon"].tolist() == [loaded.adapters[1].epsilon(module) for module in rows["module"]]
    assert rows["adapter"].cat.categories.tolist() == ["swap-lora", "priced"]


@pytest.mark.parametrize("prices", [None, "many", {"model.layers.0.self_attn.q_proj": "high"}, {"nowhere": 1.0}])
def test_card_without_usable_prices_has_no_rows(tmp_path: Path, prices: object) -> None:
    loaded = with_prices(tmp_path, {"shadow_prices": prices})
    assert reallocation.price_rows(loaded.adapters, measure_layers(loaded.spectra, loaded.adapters, K)).empty


def test_snippet_draws_the_prices(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loaded = with_prices(tmp_path, {"shadow_prices": {"model.layers.0.self_attn.q_proj": 1.0}})
    adapters = loaded.adapters[1:]
    shown: list[go.Figure] = []
    monkeypatch.setattr(go.Figure, "show", lambda figure: shown.append(figure))
    exec(reallocation.snippet("demo", adapters, K), {})
    rows = reallocation.price_rows(adapters, measure_layers(loaded.spectra, adapters, K))
    drawn = [[(x, y) for x, y in zip(trace.x, trace.y, strict=True) if y == y] for trace in shown[0].data]
    expected = [list(zip(trace.x, trace.y, strict=True)) for trace in figures.prices_by_module(rows).data]
    assert [[y for _, y in points] for points in drawn] == [[y for _, y in points] for points in expected]
