"""Several updates of one base merged into one: itself an update, made one module at a time."""

import math
from collections.abc import Hashable, Iterator, Sequence
from functools import cached_property, partial

import numpy as np

from hiplora.adapters import Delta, Placement, Update
from hiplora.budget import budget_cost, joint_epsilon, tightness
from hiplora.card import Card
from hiplora.errors import HiploraError
from hiplora.files import hashes_of
from hiplora.geometry import Calibration, InputSpectra, effect
from hiplora.merging.beside import unmergeable
from hiplora.merging.registry import WAYS
from hiplora.merging.way import Site, Way
from hiplora.settings import DENSITY, MERGE_WAYS, NUMBER, WHOLE, one_of
from hiplora.sources import Weight
from hiplora.sources.base import in_data_order
from hiplora.spectrum import BaseSpectra
from hiplora.spectrum.blas import one_blas_thread

HOW = one_of(*MERGE_WAYS)


class MergedUpdate(Update):
    """Updates on one base, merged. Made by `merge`, which checks what it is given.

    Nothing is held: each delta is merged when it is asked for.

    Attributes:
        placements: the updates, in their order.
        weights: of the updates.
        way: how they are merged.
        density: share of the entries that is kept, for a way that prunes.
        seed: of a way that draws.
    """

    def __init__(
        self,
        spectra: BaseSpectra,
        placements: Sequence[Placement],
        way: Way,
        weights: Sequence[float],
        name: str,
        *,
        k: int,
        epsilon: float | None,
        power: float,
        density: float,
        seed: int,
        seen_as: Hashable,
    ):
        self.placements, self.way, self.weights, self.name = list(placements), way, list(weights), name
        self.density, self.seed, self.k, self.power = density, seed, k, power
        self._spectra, self._epsilon, self._seen_as = spectra, epsilon, seen_as
        self.method = "merge" if len(self.placements) > 1 else self.placements[0].update.method
        places = {module: weight for each in reversed(self.placements) for module, weight in each.places.items()}
        self._places: dict[str, Weight] = {module: places[module] for module in in_data_order(places)}
        self.modules = list(self._places)
        configs = [each.update.config for each in self.placements]
        self.config = {
            field: configs[0].get(field)
            for field in ("base_model_name_or_path", "revision", "task_type", "auto_mapping")
            if all(config.get(field) == configs[0].get(field) for config in configs)
        }
        self.caveats = list(_caveats(self.placements))

    def shape(self, module: str) -> tuple[int, int]:
        """Return `(m, n)`, out x in."""
        return self._places[module].shape

    def delta(self, module: str, weight: np.ndarray | None = None) -> Delta:
        """Return the merged update of one module, (m, n) out x in; the updates of this module alone are read.

        Raises:
            HiploraError: no update changes the module, or one of them or the spectrum of the weight cannot be read.
        """
        if module not in self._places:
            raise HiploraError(f"{self.name} leaves {module} alone: choose another module.")
        parts = [
            (place, weight * placement.delta(module))
            for place, (placement, weight) in enumerate(zip(self.placements, self.weights, strict=True))
            if module in placement
        ]
        site = Site(
            module,
            tuple(self._keys[place] for place, _ in parts),
            self.density,
            self.seed,
            partial(self._spectra.bases, self._places[module], self.k),
            partial(self.tightness, module),
        )
        with one_blas_thread():
            return self.way.merge([delta for _, delta in parts], site)

    @cached_property
    def _keys(self) -> list[str]:
        """What the draws of each update are seeded by: a digest of its weights, whatever it is called.

        One that exists in memory only has its name.
        """
        updates = [placement.update for placement in self.placements]
        if not self.way.random:
            return [update.name for update in updates]
        found = (hashes_of(update.folder if update.source else None, (".safetensors",)) for update in updates)
        return [" ".join(each.values()) or update.name for each, update in zip(found, updates, strict=True)]

    def tightness(self, module: str, delta: Delta) -> float:
        """Return the tightness of an update of one module under the joint budget, in the geometry of the study.

        NaN where the weight is zero or its inputs are not observed.

        Args:
            module: one of `modules`.
            delta: (m, n), in the geometry of the weights.
        """
        weight = self._places[module]
        if isinstance(self._spectra, InputSpectra):
            calibration = self._spectra.calibration.complete()
            if module not in calibration:
                return math.nan
            delta = effect(delta, calibration.moments(module))
        head = self._spectra.at_least(weight, self.k).truncate(min(self.k, *weight.shape))
        core = delta.project(head.Ut.astype(np.float64), head.Vt.astype(np.float64)).dense()
        return tightness(budget_cost(core, head.sigma, self.power), self.epsilon(module))

    def epsilon(self, module: str) -> float:
        """Return the joint budget of a module: the one asked for, else the smallest of the updates' own.

        An update of weight 0 has no say.
        """
        weighted = zip(self.placements, self.weights, strict=True)
        return joint_epsilon((each.epsilon(module) for each, w in weighted if w and module in each), self._epsilon)

    @property
    def calibration(self) -> Calibration | None:
        """The inputs through which a joint budget holds; None in the geometry of the weights."""
        return self._spectra.calibration if isinstance(self._spectra, InputSpectra) else None

    @property
    def geometry(self) -> str:
        """`weights` or `inputs`: where a joint budget holds."""
        return "inputs" if isinstance(self._spectra, InputSpectra) else "weights"

    @property
    def identity(self) -> Hashable:
        """The updates, their weights, the way and all that it uses."""
        updates = tuple((each.update.name, each.update.identity) for each in self.placements)
        used = (self.k, self._epsilon, self.power, self._seen_as) if self.way.needs_spectrum else ()
        base = self._spectra.base.identity
        return "merge", self.way.key, updates, tuple(self.weights), self.density, self.seed, base, used

    @property
    def base_name(self) -> str:
        """The base that the updates name, where they agree."""
        return str(self.config.get("base_model_name_or_path") or "")

    @property
    def card(self) -> Card:
        """An empty card: what was scored of the parts does not hold for the merge."""
        return Card()


def merge(
    spectra: BaseSpectra,
    placements: Sequence[Placement],
    how: str = "sum",
    weights: Sequence[float] | None = None,
    *,
    k: int = 16,
    epsilon: float | None = None,
    power: float = 1.0,
    density: float | None = None,
    seed: int = 0,
    seen_as: Hashable = None,
) -> MergedUpdate:
    """Return the merge of updates on one base. Each update is scaled by its weight, then all are merged.

    The merge of one update is that update, for every way but Iso-C, wherever nothing is pruned and the budget is kept.

    Args:
        spectra: of the base, in the geometry in which a budget holds; used by `core` alone.
        placements: the updates on the base.
        how: a key of `WAYS`.
        weights: one for each update; 1 by default.
        k: principal rank.
        epsilon: joint budget; by default the smallest of the updates' own.
        power: `p` of the budget's weights.
        density: share of the entries that a way that prunes keeps; its own by default.
        seed: of a way that draws.
        seen_as: tells the geometry of the spectra from others.

    Raises:
        HiploraError: no update, one given twice, one that holds more than can be merged, another number of weights than
            of updates, a value out of range, or a setting that the way does not have.
    """
    HOW.require("how", how)
    way = WAYS[how]
    if not placements:
        raise HiploraError("There is nothing to merge: name at least one adapter.")
    weights = checked_weights(weights, len(placements))
    if density is not None:
        DENSITY.require("density", density)
        if way.density is None:
            pruning = ", ".join(key for key, other in WAYS.items() if other.density is not None)
            raise HiploraError(f"{how} keeps all entries, so it has no density: leave it out, or choose {pruning}.")
    WHOLE.require("seed", seed)
    known: dict[Hashable, str] = {}
    for placement in placements:
        update = placement.update
        if update.identity in known:
            raise HiploraError(
                f"{known[update.identity]} is given twice: name each adapter once, and give it a weight instead."
            )
        known[update.identity] = update.source or update.name
        if reason := unmergeable(placement):
            raise HiploraError(reason)
        placement.require_apart()
    density = density or way.density or 1.0
    named = (f"{w:g} {p.update.name}" if w != 1 else p.update.name for p, w in zip(placements, weights, strict=True))
    name = f"{way.key}({', '.join(named)})"
    return MergedUpdate(
        spectra, placements, way, weights, name, k=k, epsilon=epsilon, power=power, density=density, seed=seed,
        seen_as=seen_as,
    )  # fmt: skip


def checked_weights(weights: Sequence[float] | None, count: int) -> list[float]:
    """Return the weights of some updates; 1 for each where none are given.

    Raises:
        HiploraError: another number of weights than of updates, or one that is not a finite number.
    """
    found = [1.0] * count if weights is None else list(weights)
    if len(found) != count:
        raise HiploraError(
            f"{len(found)} weight{'s' * (len(found) != 1)} for {count} adapter{'s' * (count != 1)}: give one weight "
            "for each adapter."
        )
    for weight in found:
        NUMBER.require("A weight", weight)
    return found


def _caveats(placements: Sequence[Placement]) -> Iterator[str]:
    several = len(placements) > 1
    for each in placements:
        for caveat in each.update.caveats:
            yield f"{each.update.name}: {caveat}" if several else caveat
    names = {_last(each.update.base_name) for each in placements if each.update.base_name}
    if len(names) > 1:
        yield (
            f"The adapters name different bases ({', '.join(sorted(names))}): matching shapes are not enough to tell "
            "that they belong together."
        )


def _last(name: str) -> str:
    return name.rstrip("/").rpartition("/")[2].lower()
