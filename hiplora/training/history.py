"""The events of runs as tidy tables: what the live plots, Compare and a notebook share."""

from collections.abc import Iterable
from typing import Any

import pandas as pd

from hiplora.sources import layer_and_kind
from hiplora.training.methods import METHODS
from hiplora.training.run import Run

_LAYER_COLUMNS = (
    "epsilon",
    "tightness",
    "principal_norm",
    "mixed_norm",
    "residual_norm",
    "relative_norm",
    "shadow_price",
)


def step_table(runs: Iterable[Run]) -> pd.DataFrame:
    """Return one row per run and optimiser step.

    Columns: `run, method, step, loss` (what is minimised), `task_loss` (without the budget's penalty), `penalty,
    learning_rate, grad_norm, seconds` (trained so far), `tokens` (seen so far).
    """
    runs = list(runs)
    columns = ["loss", "task_loss", "penalty", "learning_rate", "grad_norm", "seconds", "tokens"]
    rows = [
        [run.name, METHODS[run.config.method].title, event["step"], *(event.get(name) for name in columns)]
        for run in runs
        for event in run.events()
        if event["event"] == "step"
    ]
    return _of_runs(pd.DataFrame(rows, columns=["run", "method", "step", *columns]), runs)


def score_table(runs: Iterable[Run]) -> pd.DataFrame:
    """Return one row per run, scored step and score.

    Columns: `run, method, step, name, role, score`. Role `task` is what is learned, `retention` the mean share that the
    base keeps, `skill` each of the base's skills. For a data file `task` is the mean probability that validation tokens
    get (geometric), and `retention` the base's perplexity on the probe over the present one.
    """
    rows: list[list[Any]] = []
    for run in (runs := list(runs)):
        for event in run.events():
            if event["event"] == "scores":
                start = [run.name, METHODS[run.config.method].title, event["step"]]
                rows.append([*start, run.config.goal, "task", event["task_score"]])
                if event.get("retention") is not None:
                    rows.append([*start, "retention", "retention", event["retention"]])
                rows += [[*start, name, "skill", value] for name, value in event.get("skills", {}).items()]
    return _of_runs(pd.DataFrame(rows, columns=["run", "method", "step", "name", "role", "score"]), runs)


def layer_history(runs: Iterable[Run]) -> pd.DataFrame:
    """Return one row per run, measured step and module.

    Columns: `run, method, step, module, layer, kind, epsilon, tightness, principal_norm, mixed_norm, residual_norm`
    (Frobenius norms of the blocks), `relative_norm, shadow_price` (task loss per unit of cost; NaN for methods without
    a core).
    """
    parts = []
    for run in (runs := list(runs)):
        modules = run.facts.get("modules", [])
        places = [layer_and_kind(module) for module in modules]
        for event in run.events():
            if event["event"] == "layers":
                values = {name: event.get(name) for name in _LAYER_COLUMNS}
                head = {"run": run.name, "method": METHODS[run.config.method].title, "step": event["step"]}
                where = {"module": modules, "layer": [p[0] for p in places], "kind": [p[1] for p in places]}
                parts.append(pd.DataFrame(head | where | values))
    columns = ["run", "method", "step", "module", "layer", "kind", *_LAYER_COLUMNS]
    table = pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=columns)
    return _of_runs(table.astype(dict.fromkeys(_LAYER_COLUMNS, "float64")), runs)


def _of_runs(table: pd.DataFrame, runs: list[Run]) -> pd.DataFrame:
    """Keep the order of the runs, also of those without a row: colours go by it."""
    return table.astype({"run": pd.CategoricalDtype(list(dict.fromkeys(run.name for run in runs)))})
