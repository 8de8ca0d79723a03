"""The figures of a study, one call each."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import plotly.graph_objects as go

from hiplora import figures
from hiplora.errors import HiploraError
from hiplora.measures import DIFFERENCES, MEASURES, split_expert

if TYPE_CHECKING:
    from hiplora.study import Study
    from hiplora.training import Run


class Plots:
    """Every method draws one table of the study; see `hiplora.figures` for what it shows.

    Args:
        study: whose tables are drawn.
    """

    def __init__(self, study: "Study"):
        self._study = study

    def principal_share(self) -> go.Figure:
        """Draw the energy in the principal block of each update, against a random update's."""
        return figures.principal_share(self._study.summary(), self._study.k)

    def layer_map(self, measure: str = "enrichment", module: str | None = None) -> go.Figure:
        """Draw a measure for every module, layers x kinds; the experts of one parameter are one cell, their sum.

        Args:
            measure: a column of `hiplora.measures.MEASURES`.
            module: one to mark.
        """
        chosen = MEASURES[measure]
        table = self._study.layers(optional=[measure] if chosen.optional else [], sum_experts=True)
        return figures.layer_map(table, chosen, module and split_expert(module)[0])

    def channel_norms(self, kind: str | None = None) -> go.Figure:
        """Draw the norms of the channels per layer.

        Args:
            kind: one kind of module only; all by default.
        """
        return figures.channel_norms(self._study.channels(kind), kind)

    def channel_blocks(self) -> go.Figure:
        """Draw the shares of the four blocks."""
        return figures.channel_blocks(self._study.summary())

    def tightness(self) -> go.Figure:
        """Draw the tightness of every module against the budget."""
        return figures.tightness_by_layer(self._study.layers())

    def cuts(self) -> go.Figure:
        """Draw the energy cut by a hard budget."""
        return figures.cut_by_layer(self._study.cuts())

    def ledger(self) -> go.Figure:
        """Draw what the updates spend of a shared budget, one on top of another."""
        return figures.ledger(self._study.ledger())

    def prices(self) -> go.Figure:
        """Draw the shadow prices on the updates' cards."""
        return figures.prices_by_module(self._study.prices())

    def reallocated(self, name: str) -> go.Figure:
        """Draw the budgets of an update before and after they are moved by their prices.

        Args:
            name: of the update.
        """
        return figures.reallocated_budgets(self._study.reallocated(name))

    def directions(self, module: str) -> go.Figure:
        """Draw the energy of each update along the singular directions of one weight.

        Args:
            module: name of the module in the base.
        """
        return figures.direction_energy(self._study.directions(module), self._study.principal_rank(module))

    def cumulative_energy(self, module: str) -> go.Figure:
        """Draw the energy up to each singular direction of one weight, against chance.

        Args:
            module: name of the module in the base.
        """
        return figures.cumulative_energy(self._study.directions(module), self._study.principal_rank(module))

    def singular_values(self, module: str) -> go.Figure:
        """Draw the singular values of one weight.

        Args:
            module: name of the module in the base.
        """
        return figures.singular_values(self._study.directions(module), self._study.principal_rank(module))

    def gains(self, module: str) -> go.Figure:
        """Draw the gain of each singular value of one weight.

        Args:
            module: name of the module in the base.
        """
        return figures.gains(self._study.directions(module), self._study.principal_rank(module))

    def sweep(self, module: str) -> go.Figure:
        """Draw the enrichment of one weight for every principal rank.

        Args:
            module: name of the module in the base.
        """
        return figures.sweep(self._study.sweep(module), self._study.principal_rank(module))

    def octaves(self) -> go.Figure:
        """Draw the energy of all modules together by octave of direction."""
        return figures.octave_energy(self._study.octaves())

    def difference_shares(self, first: str, second: str) -> go.Figure:
        """Draw the modules with most of the difference of two updates; the experts of one parameter are one.

        Args:
            first: name of an update.
            second: name of another.
        """
        return figures.difference_shares(self._study.compare(first, second, sum_experts=True))

    def difference_map(self, first: str, second: str, measure: str = "share", module: str | None = None) -> go.Figure:
        """Draw a measure of the difference of two updates for every module; see `layer_map`.

        Args:
            first: name of an update.
            second: name of another.
            measure: a column of `hiplora.measures.DIFFERENCES`.
            module: one to mark.
        """
        table = self._study.compare(first, second, sum_experts=True)
        return figures.layer_map(table, DIFFERENCES[measure], module and split_expert(module)[0])

    def playback(self, run: "str | Path | Run", module: str) -> go.Figure:
        """Draw one weight's update at each checkpoint of a run.

        Args:
            run: folder of a run on the base.
            module: name of the module in the base.
        """
        return figures.training_spectrum(self._study.playback(run, module), self._study.principal_rank(module))

    def drift(self, measure: str = "enrichment") -> go.Figure:
        """Draw the principal share of the runs among the updates over the steps of their training.

        Args:
            measure: `pp` for the share itself, or `enrichment`.

        Raises:
            HiploraError: none of the updates is a run that recorded it.
        """
        table = self._study.drift()
        if table.empty:
            raise HiploraError("None of the updates is a run that recorded its drift: name the folders of runs.")
        steps = max(run.config.steps for run in self._study.runs.values())
        return figures.principal_drift(table, steps, MEASURES[measure])

    def skills(self) -> go.Figure:
        """Draw the scores on the updates' cards."""
        return figures.skill_scores(self._study.skills())

    def frontier(self, task: str, *, beside: Sequence[str | Path] = ()) -> go.Figure:
        """Draw task score against retention.

        Args:
            task: of the updates.
            beside: further adapter folders to show.
        """
        return figures.frontier(self._study.frontier(task, beside=beside), self._study.names)

    def merge_conflicts(self, first: str, second: str) -> go.Figure:
        """Draw how two updates meet, by module and block, against independent ones.

        Args:
            first: name of an update.
            second: name of another.
        """
        return figures.merge_conflicts(self._study.conflicts(), first, second)

    def merge_outcomes(self, weights: Sequence[float] | None = None) -> go.Figure:
        """Draw what each way to merge keeps of the tasks and of the base, on the demo world.

        Args:
            weights: one for each update; 1 by default.
        """
        return figures.merge_outcomes(self._study.merge_outcomes(weights=weights))

    def merge_predictions(self, weights: Sequence[float] | None = None) -> go.Figure:
        """Draw what each way keeps of the base against what its geometry said beforehand, on the demo world.

        Args:
            weights: one for each update; 1 by default.
        """
        return figures.merge_predictions(self._study.merge_predictions(weights=weights))

    def merge_balance(self, first: str, second: str, how: str = "sum") -> go.Figure:
        """Draw what merges of two updates keep as their weights move, on the demo world.

        Args:
            first: name of an update.
            second: name of another.
            how: a key of `hiplora.merging.WAYS`.
        """
        return figures.merge_balance(self._study.merge_balance(first, second, how))

    def merge_fail(self, weight: float = 1.0) -> go.Figure:
        """Draw how many merges of all pairs and triples fail, over thresholds, on the demo world.

        Args:
            weight: of each update.
        """
        return figures.merge_fail(self._study.merge_fail(weight=weight))
