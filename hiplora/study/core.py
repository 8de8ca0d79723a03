"""What is studied, on which base and at which k, and its measurements."""

from collections.abc import Callable, Hashable, Iterator, Sequence
from pathlib import Path
from typing import Any, Self

import pandas as pd

from hiplora.adapters import Placement, Update, name_apart, place, read_adapter
from hiplora.errors import HiploraError
from hiplora.geometry import Calibration, InputSpectra, seen
from hiplora.measures import (
    MEASURES,
    Measurement,
    changed_weights,
    measure_layers,
)
from hiplora.memory import Memory
from hiplora.settings import COUNT, NOT_NEGATIVE, POSITIVE, one_of
from hiplora.sources import BaseModel, Weight
from hiplora.spectrum import BaseSpectra, Spectrum
from hiplora.spectrum.cache import round_up
from hiplora.spectrum.prepare import Progress

_REMEMBERED = 128
GEOMETRY = one_of("weights", "inputs")


class Measured:
    """Updates on a base, measured at one principal rank in one geometry; its arguments are those of `Study`."""

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
    ) -> Self:
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

    def on(self, adapters: Sequence[str | Path | Update], *, strict: bool = True) -> Self:
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

    def measurable(self, *, optional: Sequence[str] = ()) -> Self:
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

    @property
    def seen_as(self) -> Hashable:
        """A key that tells the geometry, text included, from any other."""
        return None if self.calibration is None else str(self.calibration.folder)

    def _with(self, **changes: Any) -> Self:
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
        return type(self)(_memory=self._memory, **(kept | changes))

    def _placement(self, name: str) -> Placement:
        found = next((placement for placement in self.placements if placement.update.name == name), None)
        if found is None:
            raise HiploraError(f"The study has no update {name!r}: choose one of {', '.join(self.names)}.")
        return found

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
