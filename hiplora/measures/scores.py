"""What the cards of adapters say that they scored, as tidy tables."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from hiplora.adapters import Adapter
from hiplora.files import read_json
from hiplora.sources import BaseModel

_NUMBERS = ("seed", "steps", "relative_norm", "trainable_parameters", "task_score", "retention")


def card_table(
    adapters: Sequence[Adapter],
    cards: Sequence[Mapping[str, Any]] | None = None,
    titles: Mapping[str, str] | None = None,
) -> pd.DataFrame:
    """Return one row per adapter: how it was made and what it scored, by its card; NaN for what no card says.

    Columns: `adapter, method, task, seed, steps, budget` (lambda or epsilon, by its config), `relative_norm,
    trainable_parameters, parameter_difference` (relative to the first adapter), `task_score, retention`.

    Args:
        adapters: open adapters.
        cards: of each adapter; its `card.json` by default.
        titles: `{method on a card: what to call it}`; the file's own format is named otherwise.

    Raises:
        HiploraError: a card is damaged.
    """
    rows = []
    for adapter, card in _with_cards(adapters, cards):
        rows.append(
            {
                "adapter": adapter.name,
                "method": (titles or {}).get(str(card.get("method")), adapter.method),
                "task": str(card["task"]) if card.get("task") else None,
                "budget": _budget(adapter.config),
                **{name: _number(card.get(name)) for name in _NUMBERS},
            }
        )
    columns = ["adapter", "method", "task", "budget", *_NUMBERS]
    table = pd.DataFrame(rows, columns=columns).astype(dict.fromkeys(_NUMBERS, "float64"))
    parameters = table["trainable_parameters"]
    table["parameter_difference"] = parameters / parameters.iloc[0] - 1 if len(table) else parameters
    return table


def skill_table(
    base: BaseModel, adapters: Sequence[Adapter], cards: Sequence[Mapping[str, Any]] | None = None
) -> pd.DataFrame:
    """Return one row per adapter and score of its card: `adapter, role, skill, score, base`.

    `role` is `task` for what the adapter was trained on, `skill` for each skill of the base. `score` is what it is
    after training, 0 to 1, `base` what the base scored before, NaN where its own card does not say.

    Args:
        base: the model.
        adapters: open adapters; those whose card holds no scores have no rows.
        cards: of each adapter; its `card.json` by default.

    Raises:
        HiploraError: a card is damaged.
    """
    path = base.path / "card.json"
    before = _skills(read_json(path)) if path.is_file() else {}
    rows: list[list[object]] = []
    for adapter, card in _with_cards(adapters, cards):
        if not np.isnan(score := _number(card.get("task_score"))):
            rows.append([adapter.name, "task", str(card.get("task") or "its task"), score, np.nan])
        rows += [
            [adapter.name, "skill", skill, score, before.get(skill, np.nan)] for skill, score in _skills(card).items()
        ]
    table = pd.DataFrame(rows, columns=["adapter", "role", "skill", "score", "base"])
    # The order of all adapters, also of those without scores: colours go by it.
    order = pd.CategoricalDtype([adapter.name for adapter in adapters])
    return table.astype({"adapter": order, "score": "float64", "base": "float64"})


def frontier_table(cards: pd.DataFrame) -> pd.DataFrame:
    """Return the rows that have a task, a task score and a retention, with `on_frontier`.

    On the frontier is what no other row of its task beats: none is at least as good in both and better in one.

    Args:
        cards: from `card_table`, or several of them one below the other.
    """
    table = cards.dropna(subset=["task", "task_score", "retention"]).reset_index(drop=True)
    points = table[["task_score", "retention"]].to_numpy(np.float64)
    same_task = table["task"].to_numpy()[:, None] == table["task"].to_numpy()[None, :]
    as_good = (points[:, None] >= points[None, :]).all(axis=2)
    better = (points[:, None] > points[None, :]).any(axis=2)
    return table.assign(on_frontier=~(same_task & as_good & better).any(axis=0))


def _with_cards(
    adapters: Sequence[Adapter], cards: Sequence[Mapping[str, Any]] | None
) -> Iterator[tuple[Adapter, Mapping[str, Any]]]:
    return zip(adapters, [adapter.card for adapter in adapters] if cards is None else cards, strict=True)


def _number(value: Any) -> float:
    """Return a card's number; whatever else stands there is no score."""
    return float(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else float("nan")


def _skills(card: Mapping[str, Any]) -> dict[str, float]:
    skills = card.get("skills")
    return {str(name): _number(value) for name, value in skills.items()} if isinstance(skills, dict) else {}


def _budget(config: Mapping[str, Any]) -> str:
    mode = config.get("budget_mode")
    if mode == "soft":
        return f"λ = {config.get('budget_lambda')}"
    return f"ε = {config.get('epsilon')}" if mode == "hard" else ""
