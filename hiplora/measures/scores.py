"""The scores on the cards of updates, as tidy tables."""

import math
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from hiplora.adapters import Update
from hiplora.card import Card

_NUMBERS = ("seed", "steps", "relative_norm", "trainable_parameters", "task_score", "retention")


def card_table(
    updates: Sequence[Update], cards: Sequence[Card] | None = None, titles: Mapping[str, str] | None = None
) -> pd.DataFrame:
    """Return one row per update: its training and its scores, from its card; NaN for missing values.

    Columns: `adapter, method, task, budget` (lambda or epsilon, by its config), `seed, steps, relative_norm,
    trainable_parameters, task_score, retention, parameter_difference` (relative to the first update).

    Args:
        updates: open ones.
        cards: of each update; its own by default.
        titles: `{method on a card: its title}`; the update's own method if a card names none of them.

    Raises:
        HiploraError: a card is damaged.
    """
    rows = [
        {
            "adapter": update.name,
            "method": (titles or {}).get(card.method or "", update.method),
            "task": card.task,
            "budget": _budget(update.config),
            **{name: getattr(card, name) for name in _NUMBERS},
        }
        for update, card in zip(updates, _cards(updates, cards), strict=True)
    ]
    columns = ["adapter", "method", "task", "budget", *_NUMBERS]
    table = pd.DataFrame(rows, columns=columns).astype(dict.fromkeys(_NUMBERS, "float64"))
    parameters = table["trainable_parameters"]
    table["parameter_difference"] = parameters / parameters.iloc[0] - 1 if len(table) else parameters
    return table


def skill_table(base: Card, updates: Sequence[Update], cards: Sequence[Card] | None = None) -> pd.DataFrame:
    """Return one row per update and score of its card: `adapter, role, skill, score, base`.

    `role` is `task` for the task of the update, `skill` for each skill of the base. `score` is the one after training,
    0 to 1, `base` that of the base before, NaN where its own card does not have it.

    Args:
        base: card of the base.
        updates: open ones; those whose card holds no scores have no rows.
        cards: of each update; its own by default.

    Raises:
        HiploraError: a card is damaged.
    """
    rows: list[list[object]] = []
    for update, card in zip(updates, _cards(updates, cards), strict=True):
        if card.task_score is not None:
            rows.append([update.name, "task", card.task or "its task", card.task_score, math.nan])
        rows += [
            [update.name, "skill", skill, score, base.skills.get(skill, math.nan)]
            for skill, score in card.skills.items()
        ]
    table = pd.DataFrame(rows, columns=["adapter", "role", "skill", "score", "base"])
    # The order of all updates, including those without scores: it determines their colors.
    order = pd.CategoricalDtype([update.name for update in updates])
    return table.astype({"adapter": order, "score": "float64", "base": "float64"})


def frontier_table(cards: pd.DataFrame) -> pd.DataFrame:
    """Return the rows with a task, a task score and a retention, and their `on_frontier`.

    On the frontier are the Pareto-optimal rows of each task: no other is at least as good in both scores and better in
    one.

    Args:
        cards: from `card_table`, or several of them one below the other.
    """
    table = cards.dropna(subset=["task", "task_score", "retention"]).reset_index(drop=True)
    points = table[["task_score", "retention"]].to_numpy(np.float64)
    same_task = table["task"].to_numpy()[:, None] == table["task"].to_numpy()[None, :]
    as_good = (points[:, None] >= points[None, :]).all(axis=2)
    better = (points[:, None] > points[None, :]).any(axis=2)
    return table.assign(on_frontier=~(same_task & as_good & better).any(axis=0))


def _cards(updates: Sequence[Update], cards: Sequence[Card] | None) -> Sequence[Card]:
    return [update.card for update in updates] if cards is None else cards


def _budget(config: Mapping[str, object]) -> str:
    words = {"soft": f"λ = {config.get('budget_lambda')}", "hard": f"ε = {config.get('epsilon')}"}
    budget = words.get(str(config.get("budget_mode")), "")
    return f"{budget}, on inputs" if budget and config.get("geometry") == "inputs" else budget
