"""The events of runs as tidy tables, for the live plots, the page Compare and notebooks."""

from collections.abc import Iterable, Iterator
from dataclasses import fields
from typing import Any, Final, TypeVar

import pandas as pd

from hiplora.errors import HiploraError
from hiplora.sources import layer_and_kind
from hiplora.training.events import Drift, Layers, Recorded, Scores, Step
from hiplora.training.run import Run

_OF_LAYER: Final = [each.name for each in fields(Layers) if each.name not in ("step", "total_relative_norm")]


def step_table(runs: Iterable[Run]) -> pd.DataFrame:
    """Return one row per run and optimizer step.

    Columns: `run, method`, and the fields of `hiplora.training.events.Step`.
    """
    runs = list(runs)
    rows = [_names(run) | vars(event) for run in runs for event in _events(run, Step)]
    return _table(runs, rows, [each.name for each in fields(Step)])


def score_table(runs: Iterable[Run]) -> pd.DataFrame:
    """Return one row per run, scored step and score.

    Columns: `run, method, step, name, role, score`. Role `task` is the score on the task, `retention` the mean share
    of the base's skills that is kept, `skill` each of these skills. For a data file `task` is the geometric mean
    probability of the validation tokens, and `retention` the base's perplexity on the probe over the present one.
    """
    runs, rows = list(runs), []
    for run in runs:
        for event in _events(run, Scores):
            found = [(run.config.goal, "task", event.task_score)]
            if event.retention is not None:
                found.append(("retention", "retention", event.retention))
            found += [(name, "skill", value) for name, value in event.skills.items()]
            rows += [
                _names(run) | {"step": event.step, "name": name, "role": role, "score": score}
                for name, role, score in found
            ]
    return _table(runs, rows, ["step", "name", "role", "score"])


def layer_history(runs: Iterable[Run]) -> pd.DataFrame:
    """Return one row per run, measured step and module.

    Columns: `run, method, step, module, layer, kind, epsilon, tightness, principal_norm, mixed_norm, residual_norm`
    (Frobenius norms of the blocks), `relative_norm, shadow_price` (task loss per unit of cost; NaN for methods without
    a core).
    """
    runs, rows = list(runs), []
    for run in runs:
        places = [(module, *layer_and_kind(module)) for module in run.facts.get("modules", [])]
        for event in _events(run, Layers):
            values = [getattr(event, name) or [None] * len(places) for name in _OF_LAYER]
            if any(len(each) != len(places) for each in values):
                raise HiploraError(
                    f"{run.path / 'events.jsonl'} measures another number of modules at step {event.step} "
                    f"than the {len(places)} of its run: remove this line, or start a new run."
                )
            for place, *numbers in zip(places, *values, strict=True):
                where = dict(zip(("module", "layer", "kind"), place, strict=True))
                rows.append(_names(run) | {"step": event.step} | where | dict(zip(_OF_LAYER, numbers, strict=True)))
    table = _table(runs, rows, ["step", "module", "layer", "kind", *_OF_LAYER])
    return table.astype(dict.fromkeys(_OF_LAYER, "float64"))


def drift_history(runs: Iterable[Run]) -> pd.DataFrame:
    """Return the principal share of each run's update beside its null, one row per run, measured step and geometry.

    Columns: `run, method, principal_rank` (that of the run), and the fields of `hiplora.training.events.Drift`: those
    of `hiplora.measures.summary_table` at that step. No rows while the update is zero, for a run that was recorded
    before there was this table, on inputs where the base was not calibrated when the run began, and for an update that
    is not of low rank (DoRA) on weights larger than 256.
    """
    runs, rows = list(runs), []
    for run in runs:
        names = _names(run) | {"principal_rank": run.config.principal_rank}
        rows += [names | vars(event) for event in _events(run, Drift)]
    return _table(runs, rows, ["principal_rank", *(each.name for each in fields(Drift))])


_Kind = TypeVar("_Kind", bound=Recorded)


def _events(run: Run, kind: type[_Kind]) -> Iterator[_Kind]:
    return (event for event in run.events() if isinstance(event, kind))


def _names(run: Run) -> dict[str, Any]:
    return {"run": run.name, "method": run.config.title}


def _table(runs: list[Run], rows: list[dict[str, Any]], columns: list[str]) -> pd.DataFrame:
    """Return rows as a table that keeps the order of all runs, even those without a row: colors follow it."""
    table = pd.DataFrame(rows, columns=["run", "method", *columns])
    return table.astype({"run": pd.CategoricalDtype(list(dict.fromkeys(run.name for run in runs)))})
