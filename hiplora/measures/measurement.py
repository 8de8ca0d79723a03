"""One update on one weight: the numbers from which every measure of METHOD.md section 4 is computed."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np

from hiplora.adapters import Delta
from hiplora.budget import DEFAULT_EPSILON, budget_cost
from hiplora.measures.channels import Channels, channels
from hiplora.measures.measure import Measure
from hiplora.measures.null import Null, Reach, leading, null_of
from hiplora.spectrum import Spectrum


@dataclass(frozen=True)
class Measurement:
    """One update on one weight at one `k`; a smaller `k` (`truncate`) and another budget are cheap.

    Attributes:
        adapter: name of the update.
        method: its method.
        module: name of the module in the base.
        shape: `(m, n)`.
        rank: upper bound on the rank of the update.
        channels: the energies by direction, the four blocks and the core.
        sigma: (k,), leading singular values of the weight.
        frobenius: `||W0||_F`.
        singular_values: of the update, falling.
        parts: energy shares of its rank-one parts; in the geometry of the inputs of the update itself, not its effect.
        reach: of the leading directions, in the geometry of the inputs; None in that of the weights.
        own_epsilon: the update's own budget for this module; None when it states none.
        power: `p` of the budget's weights.
        computed: `{column: result}` of the optional measures that were asked for.
    """

    adapter: str
    method: str
    module: str
    shape: tuple[int, int]
    rank: int
    channels: Channels
    sigma: np.ndarray
    frobenius: float
    singular_values: np.ndarray
    parts: np.ndarray
    reach: Reach | None = None
    own_epsilon: float | None = None
    power: float = 1.0
    computed: Mapping[str, Any] = field(default_factory=dict)

    @property
    def k(self) -> int:
        """Principal rank."""
        return len(self.sigma)

    @property
    def epsilon(self) -> float:
        """The budget, `DEFAULT_EPSILON` where none is stated."""
        return DEFAULT_EPSILON if self.own_epsilon is None else self.own_epsilon

    @cached_property
    def cost(self) -> float:
        """Stability cost of the principal core (METHOD.md section 3)."""
        return budget_cost(self.channels.core, self.sigma, self.power)

    @property
    def right_chance(self) -> float:
        """Expected share of a random update on the leading right directions: `k / n` in the geometry of the weights."""
        return self.k / self.shape[1] if self.reach is None else float(self.reach.share[self.k - 1])

    @cached_property
    def null(self) -> Null:
        """Null of the principal block's share."""
        reach = None if self.reach is None else self.reach[self.k - 1]
        return null_of(self.k, self.shape, self.parts, reach=reach)

    def truncate(self, k: int) -> "Measurement":
        """Return the measurement at a smaller `k`: to rounding what `measure` gives there.

        Raises:
            ValueError: `k` is not between 1 and the present one, and the weight has more directions.
        """
        k = min(k, *self.shape)
        return replace(self, channels=self.channels.truncate(k), sigma=self.sigma[:k])

    def under(self, epsilon: float | None, power: float) -> "Measurement":
        """Return the measurement under another budget.

        Args:
            epsilon: None for the update's own.
            power: `p` of the budget's weights.
        """
        return replace(self, own_epsilon=self.own_epsilon if epsilon is None else epsilon, power=power)


def measure(
    spectrum: Spectrum,
    delta: Delta,
    k: int,
    *,
    adapter: str = "",
    method: str = "",
    module: str = "",
    epsilon: float | None = None,
    optional: Iterable[Measure] = (),
) -> Measurement:
    """Measure one update on one weight.

    Args:
        spectrum: of the weight, at least `k` triplets or all; complete when an optional measure is asked for.
        delta: (m, n), of the weight's shape.
        k: principal rank; at most the number of directions of the weight is used.
        adapter: name, for the table.
        method: name, for the table.
        module: name, for the table.
        epsilon: the update's own budget, if it has one.
        optional: slow measures to compute too.

    Raises:
        ValueError: shapes differ, or the spectrum is too short.
    """
    if delta.shape != spectrum.shape:
        raise ValueError(f"update of shape {delta.shape} on a weight of shape {spectrum.shape}")
    head = spectrum.truncate(min(k, *spectrum.shape))
    return Measurement(
        adapter=adapter,
        method=method,
        module=module,
        shape=spectrum.shape,
        rank=delta.rank,
        channels=channels(delta, head.Ut, head.Vt),
        sigma=head.sigma,
        frobenius=spectrum.frobenius,
        singular_values=delta.singular_values,
        parts=delta.parts,
        reach=leading(head),
        own_epsilon=epsilon,
        computed={chosen.column: chosen.compute(spectrum, delta) for chosen in optional if chosen.compute},
    )
