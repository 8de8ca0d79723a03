"""From a run's shadow prices to the budgets of the next run."""

from collections.abc import Sequence

import pandas as pd

from hiplora.budget import reallocate
from hiplora.errors import HiploraError
from hiplora.training.run import Run
from hiplora.training.tables import layer_history


def last_prices(runs: Sequence[Run]) -> pd.DataFrame:
    """Return the shadow prices of runs at their last measurement, one row per module.

    Columns: those of `layer_history`, with `adapter` in place of `run`. Runs without prices have no rows but keep
    their place in the order of colors.

    Args:
        runs: any runs.
    """
    priced = layer_history(runs).dropna(subset=["shadow_price"])
    last = priced["step"] == priced.groupby("run", observed=True)["step"].transform("max")
    return priced[last].rename(columns={"run": "adapter"}).reset_index(drop=True)


def price_table(run: Run) -> pd.DataFrame:
    """Return the budget of each module at a run's last measurement, and the one proposed for the next run.

    Columns: those of `layer_history`, and `new_epsilon`.

    Raises:
        HiploraError: the run has no prices: it is not a HiP-LoRA run, or has not been measured yet.
    """
    history = layer_history([run]).dropna(subset=["shadow_price"])
    if history.empty:
        raise HiploraError(
            f"{run.name} has no shadow prices: only HiP-LoRA runs have them, after at least "
            f"{run.config.measure_every} steps."
        )
    last = history[history["step"] == history["step"].max()].reset_index(drop=True)
    epsilon, price, tightness = (
        dict(zip(last["module"], last[name])) for name in ("epsilon", "shadow_price", "tightness")
    )
    return last.assign(new_epsilon=last["module"].map(reallocate(epsilon, price, tightness)))


def reallocated(run: Run) -> dict[str, float]:
    """Return `{module: epsilon}` for the next run, under the same total.

    Raises:
        HiploraError: as `price_table`.
    """
    table = price_table(run)
    return dict(zip(table["module"], table["new_epsilon"]))
