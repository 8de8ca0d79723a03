"""The geometry of the inputs: `W0 K` and `dW K` in the place of `W0` and `dW` (METHOD.md section 8)."""

import hashlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np

from hiplora.adapters import Delta, DenseDelta, LowRankDelta, Placement
from hiplora.errors import HiploraError
from hiplora.geometry.calibration import Calibration
from hiplora.geometry.moments import Moments
from hiplora.sources import Weight
from hiplora.spectrum import BaseSpectra, InputSpectrum, Spectrum, SpectrumCache
from hiplora.spectrum.cache import stored_k
from hiplora.spectrum.decompose import decompose
from hiplora.spectrum.prepare import Progress, resolve_device


class InputSpectra(BaseSpectra):
    """The spectra of `W0 K` of one base, kept in the same cache.

    Args:
        of_weights: the base's own spectra, whose cache and device are used.
        calibration: of the base.
    """

    def __init__(self, of_weights: BaseSpectra, calibration: Calibration):
        super().__init__(of_weights.base, of_weights.cache, of_weights.device)
        self.of_weights = of_weights
        self.calibration = calibration

    def get(self, weight: Weight, k: int | None = None) -> Spectrum:
        """Return the leading `k` triplets of `W0 K`, or all (None, or fewer than `k`), from the cache or computed.

        Raises:
            HiploraError: the inputs of the weight were not observed, or as for the weights.
        """
        k = None if k is None else min(k, *weight.shape)
        found = self.cache.lookup(self._key(weight), k)
        if found is None:
            moments = self.calibration.complete().moments(weight.module)
            return input_spectrum(
                self.base.read(weight), moments, k, self.weight_hash(weight), self.cache, resolve_device(self.device)
            )
        return found if k is None else found.truncate(k)

    def bases(self, weight: Weight, k: int) -> tuple[np.ndarray, np.ndarray]:
        """Return `U_k` of `W0 K` and `Q_k = orth(K V'_k)` as rows, float64: the inputs through which those flow.

        A map whose inputs are not observed has none: an edit takes all of it for the rest.

        Raises:
            HiploraError: as `get`.
        """
        if weight.module not in self.calibration.complete():
            return np.zeros((0, weight.shape[0])), np.zeros((0, weight.shape[1]))
        head = self.at_least(weight, k).truncate(min(k, *weight.shape))
        return head.Ut.astype(np.float64), flow(head.Vt, self.calibration.moments(weight.module))[0]

    def missing(self, weights: Iterable[Weight], k: int | None = None) -> list[Weight]:
        """Return the weights whose spectrum is still to be computed: all while the inputs are not observed."""
        weights = {weight.key: weight for weight in weights}.values()
        if not self.calibration.ready:
            return list(weights)
        known = [weight for weight in weights if weight.module in self.calibration]
        return [weight for weight in known if not self.cache.holds(self._key(weight), k)]

    def prepare(
        self, weights: Iterable[Weight], k: int | None = None, stop: Callable[[], bool] = lambda: False
    ) -> Iterator[Progress]:
        """Observe the inputs if that is still to be done, then compute the missing spectra; see `BaseSpectra.prepare`.

        Raises:
            HiploraError: as `Calibration.run`, and as for the weights.
        """
        yield from self.calibration.run(stop)
        if self.calibration.ready:
            yield from super().prepare([w for w in weights if w.module in self.calibration], k, stop)

    def _key(self, weight: Weight) -> str:
        """Return the key of a product: the hash of the weight and that of its inputs."""
        return _key(self.weight_hash(weight), self.calibration.complete().digest(weight.module))

    def _claim_path(self, weight: Weight) -> Path:
        path = super()._claim_path(weight)
        return path.with_name(f"inputs-{path.name}")


def input_spectrum(
    weight: np.ndarray,
    moments: Moments,
    k: int | None,
    weight_hash: str,
    cache: SpectrumCache,
    device: str | None = None,
) -> Spectrum:
    """Return the leading `k` triplets of `W0 K` (None: all), from the cache or computed and kept.

    Args:
        weight: `W0`, (m, n), out x in.
        moments: of its inputs.
        k: how many.
        weight_hash: content hash of the weight.
        cache: where spectra are kept.
        device: where to compute.

    Raises:
        HiploraError: `k` does not fit, the weight is not finite, or the cache cannot be written.
    """
    key = _key(weight_hash, moments.digest)
    found = cache.lookup(key, k)
    if found is None:
        shape = (int(weight.shape[0]), int(weight.shape[1]))
        product = moments.root(np.asarray(weight, dtype=np.float64))
        found = with_inputs(decompose(product, stored_k(shape, k), weight_hash=key, device=device), moments)
        cache.store(found)
    return found if k is None else found.truncate(k)


def _key(weight_hash: str, digest: str) -> str:
    """Return the key of a product: the hash of the weight and that of its inputs."""
    return hashlib.sha256(f"inputs:{weight_hash}:{digest}".encode()).hexdigest()


def flow(Vt: np.ndarray, moments: Moments) -> tuple[np.ndarray, np.ndarray]:
    """Return `Q_k^T` (k, n) and `R` (k, k), float64, with `K V'_k = Q_k R`: the inputs through which outputs flow.

    Args:
        Vt: right singular vectors of `W0 K` as rows, (k, n).
        moments: of the inputs.
    """
    Q, R = np.linalg.qr(moments.root(np.asarray(Vt, dtype=np.float64)).T)
    return Q.T, R


@dataclass(frozen=True)
class _InputPlacement(Placement):
    calibration: Calibration | None = None

    def delta(self, module: str) -> Delta:
        """Return the effect of one weight's update on its inputs, `dW K`."""
        assert self.calibration is not None
        return effect(super().delta(module), self.calibration.moments(module))


def seen(placement: Placement, spectra: BaseSpectra) -> Placement:
    """Return an update on a base as spectra see it: as it is, or in the geometry of the inputs with `dW K` as deltas.

    Maps that no token reached are then left out.

    Args:
        placement: the update.
        spectra: of its base.

    Raises:
        HiploraError: no token reached any of its maps, or the base cannot be observed.
    """
    if not isinstance(spectra, InputSpectra):
        return placement
    calibration = spectra.calibration.complete()
    reason = "its inputs are not observed, as those of embeddings and fused experts"
    kept = {module: weight for module, weight in placement.places.items() if module in calibration}
    left_out = {placement.names[module]: reason for module in placement.places if module not in kept}
    if not kept:
        raise HiploraError(f"{placement.update.name} cannot be measured on inputs: {reason}.")
    names = {module: placement.names[module] for module in kept}
    everything_left_out = placement.left_out | left_out
    return _InputPlacement(placement.base, placement.update, names, kept, everything_left_out, calibration)


def effect(delta: Delta, moments: Moments) -> Delta:
    """Return `dW K` of an update: `||dW K||_F^2 = E||dW x||^2`. Low rank stays low rank.

    Args:
        delta: (m, n).
        moments: of its inputs.
    """
    if isinstance(delta, LowRankDelta):
        return LowRankDelta(delta.L, moments.root(delta.R), own=delta)
    return DenseDelta(moments.root(delta.dense()), own=delta)


def with_inputs(spectrum: Spectrum, moments: Moments) -> InputSpectrum:
    """Add to the triplets of `W0 K` what the moments of the inputs say of them.

    Args:
        spectrum: of `W0 K`, with `K` as `moments.root` has it.
        moments: of the inputs.
    """
    g = moments.root(spectrum.Vt.astype(np.float64))
    # Inputs of zeros alone have no directions.
    trace = moments.trace or 1.0
    return InputSpectrum(
        **{field.name: getattr(spectrum, field.name) for field in fields(Spectrum)},
        gram=(g @ g.T / trace).astype(np.float32),
        through=np.sum(moments.root(g) ** 2, axis=1) / trace**2,
        spread=moments.square / trace**2,
    )
