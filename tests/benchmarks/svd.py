"""The leading singular triplets of one weight: time and accuracy against dense SVD, randomised SVD and ARPACK."""

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import scipy.sparse.linalg
import torch

from hiplora.spectrum import content_hash, decompose
from tests.benchmarks.matrices import Known, known_weight
from tests.benchmarks.report import Line
from tests.benchmarks.timing import paired_ratio, race

Triplets = tuple[np.ndarray, np.ndarray, np.ndarray]
K = 64
_BLOCK = {(4096, 4096): 2, (1024, 4096): 2, (14336, 4096): 3}
"""Maps of a block of Llama-3.1-8B; a map's transpose takes as long."""
_DENSE = "torch.linalg.svd, float32"


def svd_lines(sizes: Sequence[tuple[int, int]], seconds: float) -> Iterator[Line]:
    """Yield the comparisons.

    Args:
        sizes: of the weights, `(m, n)`.
        seconds: of timing for each.
    """
    for device in ["cpu", "cuda"] if torch.cuda.is_available() else ["cpu"]:
        found: dict[tuple[int, int], list[Line]] = {shape: [] for shape in sizes}
        for shape in sizes:
            for line in _of_one(known_weight(shape, K), device, seconds):
                found[shape].append(line)
                yield line
        if set(_BLOCK) <= set(found):
            ours, theirs = (
                sum(count * getattr(found[shape][0], side) for shape, count in _BLOCK.items())
                for side in ("ours", "theirs")
            )
            yield Line(
                "svd",
                f"one block of Llama-3.1-8B, k = {K}",
                _DENSE,
                f"seven maps, {device}",
                "time, peer / ours",
                paired_ratio([theirs], [ours]),
                ours=ours,
                theirs=theirs,
                note=f"sum of the rows above: {ours:.3g} s a block, {32 * ours / 60:.2g} minutes for all 224 maps",
            )


def _of_one(known: Known, device: str, seconds: float) -> Iterator[Line]:
    shape = known.weight.shape
    weight = torch.from_numpy(known.weight).to(device)
    calls = {
        "ours": _ours(weight),
        _DENSE: _dense(weight),
        "svd_lowrank (PiSSA), niter 4": _lowrank(weight, 4),
        "svd_lowrank (PiSSA), niter 16": _lowrank(weight, 16),
    }
    niter = _niter_of_equal_time(weight)
    if niter > 16:
        calls[f"svd_lowrank as long as ours, niter {niter}"] = _lowrank(weight, niter)
    if device == "cpu":
        calls["scipy svds (ARPACK)"] = _arpack(known)
    times = race(calls, seconds)
    errors = {name: known.errors(*call()) for name, call in calls.items()}
    for peer in list(calls)[1:]:
        yield Line(
            "svd",
            f"decompose, k = {K}{', one thread' if device == 'cpu' else ''}",
            peer,
            f"{shape[0]} x {shape[1]}, {device}",
            "time, peer / ours",
            paired_ratio(times[peer], times["ours"]),
            goal=">= 5" if shape == (4096, 4096) and peer == _DENSE else "",
            ours=float(np.median(times["ours"])),
            theirs=float(np.median(times[peer])),
            note="sigma error {:.0e} and angle {:.0e}, peer {:.0e} and {:.0e}".format(*errors["ours"], *errors[peer]),
        )


def _ours(weight: torch.Tensor) -> Callable[[], Triplets]:
    # The cache has the hash before it asks for the triplets.
    weight_hash = content_hash(weight)

    def call() -> Triplets:
        found = decompose(weight, K, weight_hash=weight_hash)
        return found.Ut.T, found.sigma, found.Vt.T

    return call


def _dense(weight: torch.Tensor) -> Callable[[], Triplets]:
    def call() -> Triplets:
        U, sigma, Vt = torch.linalg.svd(weight, full_matrices=False)
        return _as_numpy(U[:, :K], sigma[:K], Vt[:K].T)

    return call


def _lowrank(weight: torch.Tensor, niter: int) -> Callable[[], Triplets]:
    def call() -> Triplets:
        torch.manual_seed(0)
        return _as_numpy(*torch.svd_lowrank(weight, K, niter=niter))

    return call


def _arpack(known: Known) -> Callable[[], Triplets]:
    start = np.random.default_rng(0).normal(size=min(known.weight.shape)).astype(np.float32)

    def call() -> Triplets:
        U, sigma, Vt = scipy.sparse.linalg.svds(known.weight, K, v0=start)
        order = np.argsort(sigma)[::-1]
        return U[:, order], sigma[order].astype(np.float64), Vt[order].T

    return call


def _as_numpy(U: torch.Tensor, sigma: torch.Tensor, V: torch.Tensor) -> Triplets:
    """Return them on the CPU, which also waits for a GPU."""
    return U.cpu().numpy(), sigma.cpu().double().numpy(), V.cpu().numpy()


def _niter_of_equal_time(weight: torch.Tensor) -> int:
    """Return the iterations with which `svd_lowrank` takes about as long as ours."""
    times = race({"ours": _ours(weight), "4": _lowrank(weight, 4), "16": _lowrank(weight, 16)}, 0, least=1)
    ours, few, more = (times[name][0] for name in ("ours", "4", "16"))
    return 4 + round(12 * (ours - few) / max(more - few, 1e-6))
