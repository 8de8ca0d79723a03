"""A study: these updates on this base at this k. Every table, caveat and figure is one call on it."""

import time
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import pandas as pd

from hiplora.adapters import EditedUpdate, Gains, Placement, Update, name_apart, place, read_adapter
from hiplora.budget import reallocate
from hiplora.card import Card
from hiplora.errors import HiploraError
from hiplora.geometry import Calibration, InputSpectra, read_text, seen
from hiplora.measures import (
    MEASURES,
    Inspection,
    Judgement,
    Measurement,
    card_table,
    caveats_on,
    changed_weights,
    channel_table,
    checkpoint_table,
    cut_table,
    difference_table,
    direction_table,
    expert_table,
    finding,
    frontier_table,
    inspecting,
    judgement,
    layer_table,
    measure_layers,
    octave_table,
    skill_table,
    summary_table,
    sweep_table,
    with_expert_sums,
)
from hiplora.memory import Memory
from hiplora.plots import Plots
from hiplora.printable import printable
from hiplora.settings import COUNT, DEFAULT_TOKENS, NOT_NEGATIVE, POSITIVE, one_of
from hiplora.sources import BaseModel, Weight, open_base
from hiplora.spectrum import BaseSpectra, Spectrum
from hiplora.spectrum.cache import round_up
from hiplora.spectrum.prepare import Progress
from hiplora.training import METHODS, Run

_REMEMBERED = 128
GEOMETRY = one_of("weights", "inputs")
REPAIR_BUDGETS = (0.05, 0.02, 0.01)
"""Budgets that `repair` tries."""
_ROUNDING = 1e-6
"""An edit is saved in float32, whose rounding would pass a budget that is met exactly."""


class Study:
    """Updates on a base, measured at one principal rank and under one budget.

    A study does not change: `at` and `on` give another one, which reuses the measurements. Tables are pandas
    DataFrames; their columns are described in `hiplora.measures`. In the geometry of the inputs each has one more,
    `inputs`, with the text.

    Args:
        spectra: of the base; an `InputSpectra` measures in the geometry of the inputs.
        updates: to be studied, all of one base and with different names.
        k: principal rank; a weight that has fewer directions is measured at all it has, and `caveats` says so.
        epsilon: budget for all; None for each update's own (`hiplora.measures.DEFAULT_EPSILON` where it states none).
        power: `p` of the budget's weights.
        ahead: whether to measure at `k` rounded up to a multiple of 64 at once, so that every `k` up to there is cheap.
        source: the name or path that opens the base again.
        problems: one sentence for each requested update that cannot be used.
        strangers: updates that can be read but do not fit the base, each with the reason in one sentence.

    Raises:
        HiploraError: an update does not fit the base, or `k`, `epsilon` or `power` is out of range.
    """

    def __init__(
        self,
        spectra: BaseSpectra,
        updates: Sequence[Update] = (),
        k: int = 16,
        *,
        epsilon: float | None = None,
        power: float = 1.0,
        ahead: bool = False,
        source: str = "",
        problems: Sequence[str] = (),
        strangers: Sequence[tuple[Update, str]] = (),
        _memory: Memory | None = None,
        _placements: Sequence[Placement] | None = None,
    ):
        COUNT.require("k", k)
        if epsilon is not None:
            POSITIVE.require("epsilon", epsilon)
        NOT_NEGATIVE.require("power", power)
        self.spectra = spectra
        self.placements = [place(spectra.base, update) for update in updates] if _placements is None else _placements
        self.k = k
        self.epsilon = epsilon
        self.power = power
        self.ahead = ahead
        self.source = source or str(spectra.base.path)
        self.problems = list(problems)
        self.strangers = list(strangers)
        self._memory = _memory or Memory(_REMEMBERED)

    # The contents of the study.

    @property
    def geometry(self) -> str:
        """`weights`, or `inputs` where every number is of what an update does on the inputs of a text."""
        return "weights" if self.calibration is None else "inputs"

    @property
    def calibration(self) -> Calibration | None:
        """The inputs of the base, in their geometry; None in that of the weights."""
        return self.spectra.calibration if isinstance(self.spectra, InputSpectra) else None

    @property
    def base(self) -> BaseModel:
        """The base model."""
        return self.spectra.base

    @property
    def updates(self) -> list[Update]:
        """The updates, in the order given."""
        return [placement.update for placement in self.placements]

    @property
    def names(self) -> list[str]:
        """Names of the updates, in the order given."""
        return [update.name for update in self.updates]

    @property
    def weights(self) -> list[Weight]:
        """The weights changed by the updates, each once, in data order."""
        return changed_weights(self.placements)

    def __getitem__(self, name: str) -> Update:
        """Return the update with a name.

        Raises:
            HiploraError: the study does not have such an update.
        """
        return self._placement(name).update

    def at(
        self,
        k: int | None = None,
        *,
        epsilon: float | None = None,
        power: float | None = None,
        geometry: str | Calibration | None = None,
    ) -> "Study":
        """Return the same study at another principal rank, budget or geometry; measurements are reused.

        Args:
            k: principal rank; the present one by default.
            epsilon: budget for all; the present one by default.
            power: `p` of the budget's weights; the present one by default.
            geometry: `weights`, `inputs` (of the text that the base brings along, or of English), or the inputs of a
                text of one's own; the present one by default.

        Raises:
            HiploraError: a value is out of range.
        """
        spectra = self.spectra
        if geometry is not None:
            spectra = spectra.of_weights if isinstance(spectra, InputSpectra) else spectra
            if not isinstance(geometry, Calibration):
                GEOMETRY.require("geometry", geometry)
            if geometry == "inputs":
                geometry = Calibration(spectra)
            if isinstance(geometry, Calibration):
                if geometry.base.identity != spectra.base.identity:
                    raise HiploraError(f"These are the inputs of {geometry.base.name}, not of {spectra.base.name}.")
                weights, inputs = spectra, geometry
                spectra = self._memory.get(("geometry", inputs), lambda: InputSpectra(weights, inputs))
        return self._with(
            spectra=spectra,
            k=self.k if k is None else k,
            epsilon=self.epsilon if epsilon is None else epsilon,
            power=self.power if power is None else power,
        )

    def on(self, adapters: Sequence[str | Path | Update], *, strict: bool = True) -> "Study":
        """Return a study of other updates on the same base.

        Args:
            adapters: adapter folders, runs, names of the demo's adapters, or open updates.
            strict: whether one that cannot be used is an error; otherwise it is listed in `problems` or `strangers`.

        Raises:
            HiploraError: with `strict`, for the first that cannot be read or does not fit the base.
        """
        read: list[Update] = []
        problems: list[str] = []
        for adapter in adapters:
            try:
                read.append(adapter if isinstance(adapter, Update) else read_adapter(adapter))
            except HiploraError as error:
                if strict:
                    raise
                problems.append(str(error))
        placements: list[Placement] = []
        strangers: list[tuple[Update, str]] = []
        for update in name_apart(read):
            try:
                placements.append(place(self.base, update))
            except HiploraError as error:
                if strict:
                    raise
                strangers.append((update, str(error)))
        return self._with(_placements=placements, problems=problems, strangers=strangers)

    def measurable(self, *, optional: Sequence[str] = ()) -> "Study":
        """Return the study without its unmeasurable updates, such as those with NaN.

        Each of them becomes a sentence in `problems`.

        Args:
            optional: columns of optional measures to compute with the others.
        """
        fine, problems = [], list(self.problems)
        for placement in self.placements:
            try:
                self._measured(placement, optional)
                fine.append(placement)
            except HiploraError as error:
                problems.append(str(error))
        return self if len(fine) == len(self.placements) else self._with(_placements=fine, problems=problems)

    def prepare(self, stop: Callable[[], bool] = lambda: False, *, optional: Sequence[str] = ()) -> Iterator[Progress]:
        """Compute the missing spectra, yielding progress after each weight; see `BaseSpectra.prepare`.

        Tables compute missing spectra by themselves; this shows the progress and can be stopped.

        Args:
            stop: asked before each weight; True ends the preparation.
            optional: columns of optional measures to be prepared too; they need complete spectra.

        Raises:
            HiploraError: a weight cannot be read, or the cache cannot be written.
        """
        return self.spectra.prepare(self.weights, self._needed(optional), stop)

    def missing(self, *, optional: Sequence[str] = ()) -> list[Weight]:
        """Return the weights whose spectra are still to be computed.

        Args:
            optional: as in `prepare`.
        """
        return self.spectra.missing(self.weights, self._needed(optional))

    def spectrum(self, module: str) -> Spectrum:
        """Return the spectrum of one weight, at least `k` triplets or all.

        Raises:
            HiploraError: the base does not have such a weight, or it cannot be read.
        """
        return self.spectra.at_least(self._weight(module), self.k)

    def principal_rank(self, module: str) -> int:
        """Return the principal rank used for one weight: `k`, or all its directions if it has fewer.

        Raises:
            HiploraError: the base does not have such a weight.
        """
        return min(self.k, *self._weight(module).shape)

    # Tables.

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

    def summary(self) -> pd.DataFrame:
        """Return one row per update: its layers summed up, and `task_score` and `retention` where a card has them.

        The other columns are those of `hiplora.measures.summary_table`.

        Raises:
            HiploraError: as `layers`.
        """
        scores = self.cards().set_index("adapter")[["task_score", "retention"]]
        return self._marked(summary_table(self.layers()).join(scores, on="adapter"))

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

    def octaves(self) -> pd.DataFrame:
        """Return the energy of all modules together by octave of direction: see `hiplora.measures.octave_table`.

        >>> table = open_study("demo", ["swap-lora"]).octaves()
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
        columns = rows.set_index("module")[["epsilon", "shadow_price", "tightness"]].to_dict()
        new = reallocate(columns["epsilon"], columns["shadow_price"], columns["tightness"])
        return rows.assign(new_epsilon=rows["module"].map(new))

    def inspections(self) -> list[Inspection]:
        """Return what was read of each update, strangers included: see `hiplora.measures.inspect`."""
        for _ in self.inspect_ahead():
            pass
        return [self._inspected[self._inspection_key(update)] for update, _ in self._to_inspect]

    @property
    def inspected(self) -> bool:
        """Whether `inspections` has nothing left to read."""
        return all(self._inspection_key(update) in self._inspected for update, _ in self._to_inspect)

    def inspect_ahead(self, stop: Callable[[], bool] = lambda: False) -> Iterator[Progress]:
        """Read what `inspections` returns, yielding progress after each module; what is read is kept.

        Args:
            stop: asked after each module; True ends the work, without the update that is being read.
        """
        left = [each for each in self._to_inspect if self._inspection_key(each[0]) not in self._inspected]
        total, done, start = sum(len(update.modules) for update, _ in left), 0, time.monotonic()
        for update, placement in left:
            work = inspecting(update, self.base, placement)
            try:
                while True:
                    module, done = next(work), done + 1
                    elapsed = time.monotonic() - start
                    yield Progress(done, total, done / total, module, elapsed * (total - done) / done)
                    if stop():
                        return
            except StopIteration as finished:
                self._inspected[self._inspection_key(update)] = finished.value

    @property
    def _to_inspect(self) -> list[tuple[Update, Placement | None]]:
        fitting: list[tuple[Update, Placement | None]] = [(each.update, each) for each in self.placements]
        return [*fitting, *((update, None) for update, _ in self.strangers)]

    @property
    def _inspected(self) -> dict[Hashable, Inspection]:
        """The inspections of these and other updates of the base, kept with the measurements."""
        found: dict[Hashable, Inspection] = self._memory.get(("inspections",), dict)
        return found

    @staticmethod
    def _inspection_key(update: Update) -> Hashable:
        return update.name, update.identity

    # Edits.

    def edit(self, name: str, gains: Gains | None = None, **blocks: float) -> EditedUpdate:
        """Return an update with its blocks at `k` changed: `study.edit("swap-lora", pp=0)`.

        Args:
            name: of an update of the study.
            gains: of all modules; by default made from `blocks`.
            blocks: `pp`, `pr`, `rp` and `rr`; those not named stay as they are.

        Raises:
            HiploraError: the study does not have such an update, or a gain is not a number.
        """
        gains = gains or Gains(**blocks)
        return self._edited(name, gains, f"{name}, {gains.words}")

    def rebudget(self, name: str, epsilon: float | None = None) -> EditedUpdate:
        """Return an update whose principal block is scaled down to the budget wherever it is over it.

        Args:
            name: of an update of the study.
            epsilon: the budget; the study's own by default, else the update's.

        Raises:
            HiploraError: the study does not have such an update, or `epsilon` is not positive.
        """
        return self._edited(name, self._within(name, epsilon), f"{name}, within budget")

    def ablation(self, name: str, size: int = 200, seed: int = 0) -> pd.DataFrame:
        """Return what each block of an update of the demo's base causes: see `hiplora.demo.ablation`.

        Args:
            name: of an update of the study.
            size: examples per skill, at most.
            seed: chooses the examples.

        Raises:
            HiploraError: the study does not have such an update, or the base is not the demo's.
        """
        *_, table = self.ablate(name, size, seed)
        return table

    def ablate(
        self,
        name: str,
        size: int = 200,
        seed: int = 0,
        chosen: Mapping[str, Gains | Mapping[str, Gains]] | None = None,
    ) -> Iterator[pd.DataFrame]:
        """Yield the table of `ablation` as it grows, a row at a time; of edits of one's own with `chosen`."""
        from hiplora.demo.ablation import ablation

        # The order of all updates determines their colors.
        order = pd.CategoricalDtype(self.names)
        for table in ablation(self.spectra, self._placement(name), self.k, size, seed, chosen):
            yield self._marked(table.astype({"adapter": order}))

    def part_ablation(self, name: str, by: str = "layer", size: int = 200, seed: int = 0) -> pd.DataFrame:
        """Return what removing one part of an update at a time gives back, beside what the indicators say of the part.

        See `hiplora.demo.ablation.with_indicators`; `hiplora.demo.ablation.indicator_table` ranks the indicators.

        Args:
            name: of an update of the study.
            by: `layer`, `kind` or `module`.
            size: examples per skill, at most.
            seed: chooses the examples.

        Raises:
            HiploraError: as `ablation`, or `by` is none of these.
        """
        *_, table = self.ablate_parts(name, by, size, seed)
        return table

    def ablate_parts(self, name: str, by: str = "layer", size: int = 200, seed: int = 0) -> Iterator[pd.DataFrame]:
        """Yield the table of `part_ablation` as it grows, a row at a time."""
        from hiplora.demo.ablation import removals, with_indicators

        one_of("layer", "kind", "module").require("by", by)
        self._placement(name)
        layers = self.layers()
        rows = layers[layers["adapter"] == name].reset_index(drop=True)
        for table in self.ablate(name, size, seed, removals(rows, by)):
            yield with_indicators(table, rows, by)

    def repair(self, name: str, size: int = 200, seed: int = 0) -> pd.DataFrame:
        """Return which edit keeps the task of an update of the demo's base, and most of the base, beside its peers.

        See `hiplora.demo.repair`. The best edit is `study.edit` with the gains in the row that is `chosen` among the
        `blocks`.

        Args:
            name: of an update of the study.
            size: examples per skill, at most; half of them choose.
            seed: chooses the examples.

        Raises:
            HiploraError: as `ablation`.
        """
        *_, table = self.search_repair(name, size, seed)
        return table

    def search_repair(self, name: str, size: int = 200, seed: int = 0) -> Iterator[pd.DataFrame]:
        """Yield the table of `repair` as it grows, a row at a time."""
        from hiplora.demo.repair import repair

        budgets = {epsilon: self._within(name, epsilon) for epsilon in REPAIR_BUDGETS}
        order = pd.CategoricalDtype(self.names)
        for table in repair(self.spectra, self._placement(name), self.k, size, seed, budgets):
            yield self._marked(table.astype({"adapter": order}))

    def _within(self, name: str, epsilon: float | None) -> dict[str, Gains]:
        """Return the gains that hold an update within a budget, for each module that is over it."""
        rows = self.at(epsilon=self.epsilon if epsilon is None else epsilon).layers()
        over = rows[(rows["adapter"] == name) & (rows["tightness"] > 1)]
        return {str(m): Gains(pp=(1 - _ROUNDING) / t) for m, t in zip(over["module"], over["tightness"], strict=True)}

    def _edited(self, name: str, gains: Gains | Mapping[str, Gains], title: str) -> EditedUpdate:
        placement = self._placement(name)
        bases = partial(self.spectra.bases, k=self.k)
        return EditedUpdate(placement, bases, self.k, gains, title, self.seen_as)

    # Words and pictures.

    @cached_property
    def caveats(self) -> dict[str, list[str]]:
        """`{update: caveats on its numbers, one sentence each}`.

        Raises:
            HiploraError: as `layers`.
        """
        layers = self.layers()
        found = {}
        for placement in self.placements:
            sentences = caveats_on(self.spectra, seen(placement, self.spectra), layers, self.k)
            sentences += self.calibration.notes if self.calibration else []
            try:
                _ = placement.update.card
            except HiploraError as error:
                sentences.append(str(error))
            found[placement.update.name] = sentences
        return found

    def judgements(self) -> dict[str, Judgement]:
        """Return `{update: what its numbers say in plain words, and what to do}`; see `hiplora.measures.judgement`.

        Raises:
            HiploraError: as `layers`.
        """
        return {str(row["adapter"]): judgement(row, self.geometry) for _, row in self.summary().iterrows()}

    def findings(self, *, optional: Sequence[str] = ()) -> list[str]:
        """Return the finding of each update with its caveats below it, line by line.

        Args:
            optional: as in `layers`.

        Raises:
            HiploraError: as `layers`.
        """
        lines = []
        for _, row in summary_table(self.layers(optional=optional)).iterrows():
            lines += [finding(row, self.k, self.geometry), *(f"  {caveat}" for caveat in self.caveats[row["adapter"]])]
        return [printable(line) for line in lines]

    @property
    def refusals(self) -> list[str]:
        """One sentence for each requested update that is not studied, be it a stranger or a problem."""
        return [printable(sentence) for sentence in (*(reason for _, reason in self.strangers), *self.problems)]

    def report(self, *, optional: Sequence[str] = ()) -> str:
        """Return the findings and the refusals as one text.

        Args:
            optional: as in `layers`.

        Raises:
            HiploraError: as `layers`.
        """
        return "\n".join([*self.findings(optional=optional), *self.refusals])

    @property
    def plot(self) -> Plots:
        """Figures of the tables: `study.plot.layer_map("enrichment")`."""
        return Plots(self)

    def __repr__(self) -> str:
        head = printable(f"Study of {', '.join(self.names) or 'no update'} on {self.base.name} at k = {self.k}")
        try:
            head += printable(f", through {self.calibration.name}") if self.calibration else ""
            if missing := len(self.missing()):
                return f"{head}: {missing} spectra are still to be computed; any table does it."
            return "\n".join([head, self.report()]).rstrip()
        except HiploraError as error:
            return f"{head}: {printable(str(error))}"

    @property
    def made_by(self) -> "partial[Study]":
        """The call that opens the same study again."""
        choices: dict[str, Any] = {} if self.epsilon is None else {"epsilon": self.epsilon}
        choices |= {} if self.power == 1 else {"power": self.power}
        if (calibration := self.calibration) is not None:
            choices |= {"geometry": "inputs"} | ({"text": calibration.text.path} if calibration.text.path else {})
            choices |= {} if calibration.tokens == DEFAULT_TOKENS else {"tokens": calibration.tokens}
        sources = [update.source for update in self.updates]
        return partial(open_study, self.source, sources, k=self.k, **choices)

    # Inside.

    def _with(self, **changes: Any) -> "Study":
        kept: dict[str, Any] = {
            "spectra": self.spectra,
            "_placements": self.placements,
            "k": self.k,
            "epsilon": self.epsilon,
            "power": self.power,
            "ahead": self.ahead,
            "source": self.source,
            "problems": self.problems,
            "strangers": self.strangers,
        }
        return Study(_memory=self._memory, **(kept | changes))

    def _placement(self, name: str) -> Placement:
        found = next((placement for placement in self.placements if placement.update.name == name), None)
        if found is None:
            raise HiploraError(f"The study has no update {name!r}: choose one of {', '.join(self.names)}.")
        return found

    @property
    def seen_as(self) -> Hashable:
        """A key that tells the geometry, text included, from any other."""
        return None if self.calibration is None else str(self.calibration.folder)

    def _weight(self, module: str) -> Weight:
        placed = (placement.places[module] for placement in self.placements if module in placement)
        weight = next(placed, None) or self.base.weights.get(module)
        if weight is None:
            raise HiploraError(f"{self.base.name} has no module {module!r}: `layers()` lists those that are changed.")
        return weight

    def _needed(self, optional: Sequence[str]) -> int | None:
        """Return the number of triplets needed by the measures; None for all."""
        for column in optional:
            if column not in MEASURES or not MEASURES[column].optional:
                known = ", ".join(measure.column for measure in MEASURES.values() if measure.optional)
                raise HiploraError(f"{column!r} is not an optional measure: choose one of {known}.")
        return None if optional else self.k

    def _measured(self, placement: Placement, optional: Sequence[str] = ()) -> list[Measurement]:
        """Return the measurements of one update; what was measured at a larger `k` serves every smaller one."""
        self._needed(optional)
        update, chosen = placement.update, [MEASURES[column] for column in optional]
        largest = max(min(weight.shape) for weight in placement.weights)
        head = round_up(self.k, largest) if self.ahead else min(self.k, largest)

        def make() -> tuple[int, list[Measurement]]:
            return head, measure_layers(self.spectra, [seen(placement, self.spectra)], head, optional=chosen)

        key = ("measured", self.seen_as, update.name, update.identity, *sorted(optional))
        _, wide = self._memory.get(key, make, enough=lambda found: found[0] >= head)
        return [measurement.truncate(self.k) for measurement in wide]

    def _of_module(self, name: str, module: str, table: Callable[..., pd.DataFrame]) -> pd.DataFrame:
        def make() -> pd.DataFrame:
            if not any(module in placement for placement in self.placements):
                raise HiploraError(f"No chosen adapter changes {module}: choose another module.")
            weight = self._weight(module)
            changing = [placement for placement in self.placements if placement.changes(weight)]
            spectrum = self.spectra.at_least(weight, self.k)
            deltas = [(each.update.name, seen(each, self.spectra).delta(module)) for each in changing]
            parts = [table(spectrum, delta, name) for name, delta in deltas]
            # The order of all updates, including those that leave this module alone: it determines their colors.
            order = pd.CategoricalDtype(self.names)
            return pd.concat(parts, ignore_index=True).astype({"adapter": order})

        return self._table(name, (module,), make)

    def _table(self, name: str, arguments: tuple[Hashable, ...], make: Callable[[], pd.DataFrame]) -> pd.DataFrame:
        """Return a copy of a cached table, so that the caller may change it."""
        updates = tuple((update.name, update.identity) for update in self.updates)
        key = (name, arguments, updates, self.seen_as, self.k, self.epsilon, self.power)
        return self._marked(self._memory.get(key, make).copy(deep=False))

    def _marked(self, table: pd.DataFrame) -> pd.DataFrame:
        """Return a table with the text in a column `inputs`, where it is of their geometry: it may be taken away."""
        return table if self.calibration is None else table.assign(inputs=self.calibration.name)

    @cached_property
    def _base_card(self) -> Card:
        return Card.read(self.base.path)

    def _card(self, update: Update) -> Card:
        """Return the card of an update; an empty one in place of a damaged one, which `caveats` names."""
        try:
            return update.card
        except HiploraError:
            return Card()


def open_study(
    base: str | Path,
    adapters: Sequence[str | Path | Update] = (),
    k: int = 16,
    *,
    epsilon: float | None = None,
    power: float = 1.0,
    geometry: str = "weights",
    text: str | Path | None = None,
    tokens: int = DEFAULT_TOKENS,
    download: bool = False,
    device: str = "auto",
    strict: bool = True,
) -> Study:
    """Open a base and adapters as a study.

    >>> import hiplora
    >>> study = hiplora.open("demo", ["swap-lora", "swap-hiplora"], k=16)
    >>> study.names
    ['swap-lora', 'swap-hiplora']
    >>> study.summary()[["adapter", "enrichment", "retention"]].round(2)
            adapter  enrichment  retention
    0     swap-lora        6.27       0.90
    1  swap-hiplora        2.19       0.93
    >>> study.at(k=8, epsilon=0.1).k
    8

    Args:
        base: a folder, a known name (`demo`), or a hub name.
        adapters: adapter folders, runs, names of the demo's adapters, or open updates.
        k: principal rank.
        epsilon: budget for all; None for each adapter's own.
        power: `p` of the budget's weights.
        geometry: `weights`, or `inputs` to measure what the updates do on the inputs of a text.
        text: a file, for the geometry of the inputs; by default the text that the base brings along, or English.
        tokens: of the text, at most.
        download: whether a hub name may be fetched; otherwise only what was fetched before is used.
        device: where to compute spectra: `cpu`, `cuda`, or `auto` for a GPU where there is one.
        strict: whether an adapter that cannot be used is an error; otherwise the study lists it.

    Raises:
        HiploraError: the base cannot be opened, a value is out of range, or, with `strict`, an adapter cannot be used.
    """
    spectra = BaseSpectra(open_base(base, download=download), device=device)
    GEOMETRY.require("geometry", geometry)
    if geometry != "inputs" and (text is not None or tokens != DEFAULT_TOKENS):
        raise HiploraError(
            "A text belongs to the geometry of the inputs: add geometry='inputs', or leave the text out."
        )
    if geometry == "inputs":
        spectra = InputSpectra(spectra, Calibration(spectra, None if text is None else read_text(text), tokens))
    study = Study(spectra, k=k, epsilon=epsilon, power=power, source=str(base))
    return study.on(adapters, strict=strict)


def analyze(
    base: str | Path,
    adapters: Sequence[str | Path | Update],
    k: int = 16,
    *,
    epsilon: float | None = None,
    power: float = 1.0,
    intruders: bool = False,
) -> pd.DataFrame:
    """Return the layer table of adapters on a base: the short form of `open_study(...).layers()`.

    >>> table = analyze("demo", ["swap-lora"], k=16)
    >>> len(table), table["module"].iloc[0]
    (28, 'model.layers.0.self_attn.q_proj')

    Args:
        base: as in `open_study`.
        adapters: as in `open_study`.
        k: principal rank.
        epsilon: budget for all; None for each adapter's own.
        power: `p` of the budget's weights.
        intruders: whether to count intruder dimensions too, which needs complete spectra.

    Raises:
        HiploraError: something cannot be read or does not fit, or a value is out of range.
    """
    study = open_study(base, adapters, k, epsilon=epsilon, power=power)
    return study.layers(optional=["intruders"] if intruders else [])


def _titles() -> dict[str, str]:
    return {key: method.title for key, method in METHODS.items()}
