"""Every table of a study, in one call each."""

from collections.abc import Sequence
from contextlib import suppress
from functools import cached_property
from pathlib import Path

import pandas as pd

from hiplora.adapters import Update, place, read_adapter
from hiplora.budget import reallocate
from hiplora.card import Card
from hiplora.errors import HiploraError
from hiplora.geometry import seen
from hiplora.measures import (
    card_table,
    channel_table,
    checkpoint_table,
    cut_table,
    difference_table,
    direction_table,
    expert_table,
    frontier_table,
    layer_table,
    ledger_table,
    octave_table,
    skill_table,
    summary_table,
    sweep_table,
    with_expert_sums,
)
from hiplora.measures.summary import SCORES
from hiplora.study.core import Measured
from hiplora.training import METHODS, Run, drift_history


class Tables(Measured):
    """Updates on a base, as tables."""

    def layers(self, *, optional: Sequence[str] = (), sum_experts: bool = False) -> pd.DataFrame:
        """Return one row per update and module with every measure: see `hiplora.measures.layer_table`.

        Args:
            optional: columns of slow measures, such as `intruders`; they need complete spectra.
            sum_experts: whether the experts of one parameter are one row, their sum.

        Raises:
            HiploraError: an update holds NaN, or no optional measure has such a column.
        """

        def make() -> pd.DataFrame:
            measured = [m for placement in self.placements for m in self._measured(placement, optional)]
            return layer_table(measured, epsilon=self.epsilon, power=self.power)

        table = self._table("layers", (*sorted(optional),), make)
        return self._marked(with_expert_sums(table)) if sum_experts else table

    def experts(self, *, optional: Sequence[str] = ()) -> pd.DataFrame:
        """Return one row per update and parameter of experts, their sum: see `hiplora.measures.expert_table`.

        Args:
            optional: as in `layers`.

        Raises:
            HiploraError: as `layers`.
        """
        return self._marked(expert_table(self.layers(optional=optional)))

    def summary(self, *, optional: Sequence[str] = ()) -> pd.DataFrame:
        """Return one row per update: its layers summed up, and `task_score` and `retention` where a card has them.

        The other columns are those of `hiplora.measures.summary_table`.

        Args:
            optional: as in `layers`.

        Raises:
            HiploraError: as `layers`.
        """
        scores = self.cards().set_index("adapter")[list(SCORES)]
        return self._marked(summary_table(self.layers(optional=optional)).join(scores, on="adapter"))

    def channels(self, kind: str | None = None) -> pd.DataFrame:
        """Return the norms of the channels per update and layer: see `hiplora.measures.channel_table`.

        Args:
            kind: one kind of module only; all by default.

        Raises:
            HiploraError: as `layers`.
        """
        return self._marked(channel_table(self.layers(), kind))

    def cuts(self) -> pd.DataFrame:
        """Return the energy cut by a hard budget: see `hiplora.measures.cut_table`.

        Raises:
            HiploraError: as `layers`.
        """
        return self._marked(cut_table(self.layers()))

    def directions(self, module: str) -> pd.DataFrame:
        """Return one row per update and singular direction of one weight: see `hiplora.measures.direction_table`.

        Args:
            module: name of the module in the base; updates that leave it alone have no rows.

        Raises:
            HiploraError: no update changes the module, or one of them cannot be read.
        """
        return self._of_module("directions", module, direction_table)

    def sweep(self, module: str) -> pd.DataFrame:
        """Return one row per update and principal rank for one weight: see `hiplora.measures.sweep_table`.

        Args:
            module: as in `directions`.

        Raises:
            HiploraError: as `directions`.
        """
        return self._of_module("sweep", module, sweep_table)

    def compare(self, first: str, second: str, *, sum_experts: bool = False) -> pd.DataFrame:
        """Return one row per module for the difference of two updates: see `hiplora.measures.difference_table`.

        Args:
            first: name of an update of the study.
            second: name of another.
            sum_experts: as in `layers`.

        Raises:
            HiploraError: the study does not have such an update, the two are the same, or one of them holds NaN.
        """
        if first == second:
            raise HiploraError(f"{first} cannot be compared with itself: name two updates.")
        a, b = self._placement(first), self._placement(second)

        def make() -> pd.DataFrame:
            first_seen, second_seen = (seen(placement, self.spectra) for placement in (a, b))
            return difference_table(
                self.spectra, first_seen, second_seen, self.k, epsilon=self.epsilon, power=self.power
            )

        table = self._table("compare", (first, second), make)
        return self._marked(with_expert_sums(table)) if sum_experts else table

    def ledger(self) -> pd.DataFrame:
        """Return what each update spends of a shared budget on top of those before it: `hiplora.measures.ledger_table`.

        The order is that of the study; `hiplora.measures.ledger_summary` sums it up.

        >>> import hiplora
        >>> from hiplora.measures import ledger_summary
        >>> study = hiplora.open("demo", ["swap-hiplora", "edit-hiplora", "rot-hiplora"])
        >>> ledger_summary(study.ledger())[["adapter", "most", "over"]].round(2)
                adapter  most  over
        0  swap-hiplora  0.84     0
        1  edit-hiplora  1.10     2
        2   rot-hiplora  1.55     7

        Raises:
            HiploraError: an update holds NaN.
        """

        def make() -> pd.DataFrame:
            placements = [seen(placement, self.spectra) for placement in self.placements]
            return ledger_table(self.spectra, placements, self.k, epsilon=self.epsilon, power=self.power)

        return self._table("ledger", (), make)

    def octaves(self) -> pd.DataFrame:
        """Return the energy of all modules together by octave of direction: see `hiplora.measures.octave_table`.

        >>> import hiplora
        >>> table = hiplora.open("demo", ["swap-lora"]).octaves()
        >>> table[["start", "end"]].head(3)
           start  end
        0      1    1
        1      2    2
        2      3    4

        Raises:
            HiploraError: an update holds NaN.
        """

        def make() -> pd.DataFrame:
            return octave_table(self.spectra, [seen(each, self.spectra) for each in self.placements], self.k)

        return self._table("octaves", (), make)

    def playback(self, run: str | Path | Run, module: str, *, name: str = "") -> pd.DataFrame:
        """Return one weight's update at each checkpoint of a run: see `hiplora.measures.checkpoint_table`.

        Args:
            run: folder of a run on this base.
            module: name of the module in the base.
            name: for the run, its own by default; the name of an update gives the run that update's color.

        Raises:
            HiploraError: it is not a run, a checkpoint cannot be read, or the run leaves the module alone.
        """
        run = run if isinstance(run, Run) else Run(run)
        adapters = {checkpoint.step: read_adapter(checkpoint.path) for checkpoint in run.checkpoints}
        shown = name or run.name
        key = tuple((step, adapter.identity) for step, adapter in adapters.items())

        def make() -> pd.DataFrame:
            placed = {step: place(self.base, adapter) for step, adapter in adapters.items()}
            deltas = {step: seen(each, self.spectra).delta(module) for step, each in placed.items()}
            return checkpoint_table(self.spectrum(module), deltas, shown)

        order = pd.CategoricalDtype(list(dict.fromkeys([*self.names, shown])))
        return self._table("playback", (key, module, shown), make).astype({"run": order})

    def drift(self) -> pd.DataFrame:
        """Return the drift that runs among the updates recorded: see `hiplora.training.drift_history`.

        It is of the principal rank that each run trained with, and in both geometries, whatever those of the study.
        Column `run` has the updates' names, in their order; updates that are not runs have no rows.

        Raises:
            HiploraError: a line of a run's events is damaged.
        """
        parts = [drift_history([run]).assign(run=name) for name, run in self.runs.items()]
        whole = pd.concat([part for part in parts if len(part)] or [drift_history([])], ignore_index=True)
        return whole.astype({"run": pd.CategoricalDtype(self.names)})

    @property
    def runs(self) -> dict[str, Run]:
        """The updates that are training runs, by name."""
        found = {}
        for update in self.updates:
            with suppress(HiploraError):
                found[update.name] = Run(update.source)
        return found

    def cards(self) -> pd.DataFrame:
        """Return the training and the scores of each update: see `hiplora.measures.card_table`."""
        return card_table(self.updates, [self._card(update) for update in self.updates], _titles())

    def skills(self) -> pd.DataFrame:
        """Return one row per update and score: see `hiplora.measures.skill_table`."""
        cards = [self._card(update) for update in self.updates]
        return skill_table(self._base_card, self.updates, cards)

    def frontier(self, task: str | None = None, *, beside: Sequence[str | Path] = ()) -> pd.DataFrame:
        """Return task score against retention with the Pareto-optimal rows marked: see `frontier_table`.

        Args:
            task: rows of this task only; all by default.
            beside: more adapter folders to show; those that cannot be read, or are studied already, are left out.
        """
        homes = {update.source for update in self.updates}
        others: list[tuple[Update, Card]] = []
        for path in beside:
            try:
                adapter = read_adapter(path)
                # A damaged card leaves its adapter out.
                card = adapter.card
            except HiploraError:
                continue
            if adapter.source not in homes:
                homes.add(adapter.source)
                adapter.name = adapter.long_name if adapter.name in self.names else adapter.name
                others.append((adapter, card))
        rows = card_table([adapter for adapter, _ in others], [card for _, card in others], _titles())
        chosen = self.cards()
        table = frontier_table(pd.concat([chosen, rows], ignore_index=True) if len(rows) else chosen)
        return table if task is None else table[table["task"] == task].reset_index(drop=True)

    def prices(self) -> pd.DataFrame:
        """Return the shadow prices on the updates' cards, beside the layer table under each update's own budget.

        Columns: those of `layers` and `shadow_price`; updates without prices have no rows.

        Raises:
            HiploraError: as `layers`.
        """
        parts = []
        for placement in self.placements:
            if prices := self._card(placement.update).shadow_prices:
                power = float(placement.update.config.get("budget_power", 1.0))
                rows = layer_table(self._measured(placement), power=power)
                parts.append(rows.assign(shadow_price=rows["module"].map(prices)).dropna(subset=["shadow_price"]))
        if not parts:
            return pd.DataFrame(columns=["adapter", "module", "layer", "kind", "tightness", "epsilon", "shadow_price"])
        # Updates without prices keep their place among the colors.
        return pd.concat(parts, ignore_index=True).astype({"adapter": pd.CategoricalDtype(self.names)})

    def reallocated(self, name: str) -> pd.DataFrame:
        """Return the rows of `prices` of one update with `new_epsilon`: its budgets moved by their prices.

        Args:
            name: of an update with prices.

        Raises:
            HiploraError: it does not have prices, or was trained at another principal rank.
        """
        placement, prices = self._placement(name), self.prices()
        rows = prices[prices["adapter"] == name].reset_index(drop=True)
        if rows.empty:
            raise HiploraError(f"{name} has no shadow prices: they belong to the core of HiP-LoRA.")
        trained = {m: placement.update.principal_rank(placement.names[m]) for m in rows["module"]}
        if any(trained[m] != rank for m, rank in zip(rows["module"], rows["principal_rank"], strict=True)):
            ranks = ", ".join(str(rank) for rank in sorted({rank for rank in trained.values() if rank is not None}))
            raise HiploraError(f"{name} was trained at principal rank {ranks}: set k to that to move its budgets.")
        own = {placement.update.trained_inputs(placement.names[m]) is not None for m in rows["module"]}
        if own != {self.calibration is not None}:
            raise HiploraError(
                f"{name} was trained in the geometry of {'its inputs' if True in own else 'the weights'}: choose that "
                "geometry to move its budgets."
            )
        columns = rows.set_index("module")[["epsilon", "shadow_price", "tightness"]].to_dict()
        new = reallocate(columns["epsilon"], columns["shadow_price"], columns["tightness"])
        return rows.assign(new_epsilon=rows["module"].map(new))

    @cached_property
    def _base_card(self) -> Card:
        return Card.read(self.base.path)

    def _card(self, update: Update) -> Card:
        """Return the card of an update; an empty one in place of a damaged one, which `caveats` names."""
        try:
            return update.card
        except HiploraError:
            return Card()


def _titles() -> dict[str, str]:
    return {key: method.title for key, method in METHODS.items()}
