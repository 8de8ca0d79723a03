"""The spectra of a base model: loaded from the cache, or computed with progress reports and kept."""

import hashlib
import json
import os
import shutil
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from filelock import FileLock, Timeout

from hiplora.errors import HiploraError
from hiplora.files import atomic_path, check_writable
from hiplora.sources import BaseModel, Weight
from hiplora.spectrum.cache import SpectrumCache, default_cache, stored_k
from hiplora.spectrum.decompose import decompose
from hiplora.spectrum.spectrum import Spectrum, content_hash

if TYPE_CHECKING:
    import numpy as np
    import torch

_LOOK_AGAIN = 0.1
"""Seconds between two checks while other processes work on all the rest."""


@dataclass(frozen=True)
class Progress:
    """The progress of a preparation.

    Attributes:
        done: weights finished.
        total: weights in all.
        share: share of the work done, by operation count, 0 to 1.
        module: the weight finished last, empty at the start.
        remaining: estimated seconds to the end; None until something was computed.
    """

    done: int
    total: int
    share: float
    module: str
    remaining: float | None


def spectrum_of(
    weight: "np.ndarray | torch.Tensor",
    k: int | None = None,
    *,
    cache: SpectrumCache | None = None,
    device: str | None = None,
) -> Spectrum:
    """Return the leading `k` triplets of a weight (None: all), from the cache or computed and kept.

    Args:
        weight: (m, n), out x in, numpy or torch on any device.
        k: how many.
        cache: where spectra are kept; the user's cache by default.
        device: where to compute; by default where the weight is.

    Raises:
        HiploraError: `k` does not fit, the weight is not finite, or the cache cannot be written.
    """
    cache, weight_hash = cache or default_cache(), content_hash(weight)
    found = cache.lookup(weight_hash, k)
    if found is None:
        shape = (int(weight.shape[0]), int(weight.shape[1]))
        found = decompose(weight, stored_k(shape, k), weight_hash=weight_hash, device=device)
        cache.store(found)
    return found if k is None else found.truncate(k)


class BaseSpectra:
    """Access to the spectra of one base model through a cache.

    The hash of each weight is remembered per file (path, size, modification time), so that a warm start reads no
    weight at all.

    Args:
        base: the model.
        cache: where the spectra are kept; the user's cache by default.
        device: where to compute: `cpu`, `cuda`, or `auto` for a GPU where there is one.

    Raises:
        HiploraError: CUDA is asked for and is not there.
    """

    def __init__(self, base: BaseModel, cache: SpectrumCache | None = None, device: str = "auto"):
        self.base = base
        self.device = resolve_device(device) if device == "cuda" else device
        self.cache = cache or default_cache()
        name = hashlib.sha256(repr(base.identity).encode()).hexdigest()
        self._memo_path = self.cache.folder / "hashes" / f"{name}.json"
        self._hashes: dict[str, str] = _read_memo(self._memo_path)

    def weight_hash(self, weight: Weight) -> str:
        """Return the content hash of a weight, reading it only the first time.

        Raises:
            HiploraError: the weight cannot be read or is not finite.
        """
        if weight.key not in self._hashes:
            self._remember(weight, content_hash(self.base.read(weight)))
        return self._hashes[weight.key]

    def get(self, weight: Weight, k: int | None = None) -> Spectrum:
        """Return the leading `k` triplets of a weight, or all (None, or fewer than `k`), from the cache or computed.

        Raises:
            HiploraError: `k` is below 1, the weight cannot be read, or the cache cannot be written.
        """
        k = None if k is None else min(k, *weight.shape)
        known = self._hashes.get(weight.key)
        found = self.cache.lookup(known, k) if known else None
        if found is None:
            found = spectrum_of(self.base.read(weight), k, cache=self.cache, device=resolve_device(self.device))
            self._remember(weight, found.weight_hash)
        return found

    def at_least(self, weight: Weight, k: int) -> Spectrum:
        """Return at least `k` triplets of a weight, or all if it has fewer: all that the cache keeps for this `k`.

        Raises:
            HiploraError: as `get`.
        """
        return self.get(weight, stored_k(weight.shape, min(k, *weight.shape)))

    def bases(self, weight: Weight, k: int) -> "tuple[np.ndarray, np.ndarray]":
        """Return the principal directions as rows, float64: of outputs, (k, m), and of inputs, (k, n).

        Raises:
            HiploraError: as `get`.
        """
        head = self.at_least(weight, k).truncate(min(k, *weight.shape))
        return head.Ut.astype("float64"), head.Vt.astype("float64")

    def missing(self, weights: Iterable[Weight], k: int | None = None) -> list[Weight]:
        """Return the weights whose spectrum is still to be computed, without reading any weight."""
        weights = {weight.key: weight for weight in weights}.values()
        return [w for w in weights if w.key not in self._hashes or not self.cache.holds(self._hashes[w.key], k)]

    def prepare(
        self, weights: Iterable[Weight], k: int | None = None, stop: Callable[[], bool] = lambda: False
    ) -> Iterator[Progress]:
        """Compute the missing spectra, the largest weight first, yielding progress after each.

        Each spectrum is kept as soon as it is computed: a stop or a crash loses at most one weight's work, and the
        next call does the rest. Memory follows the largest weight.

        Processes that prepare the same base on one cache folder at the same time share the work: each takes the largest
        weight that no other is working on, and all end when the last is done. The weight of a process that died is free
        again at once.

        Args:
            weights: to prepare.
            k: how many triplets, or all of a weight that has fewer; None for all.
            stop: asked before each weight; True ends the preparation.

        Raises:
            HiploraError: a weight cannot be read, or the cache cannot be written.
        """
        weights = list(weights)
        missing = self.missing(weights, k)
        if missing:
            try:
                check_writable(self.cache.folder)
            except HiploraError:
                # It may hold everything already, under hashes that are not known yet for files at this path.
                by_size = sorted(missing, key=lambda w: w.shape[0] * w.shape[1])
                if not self.cache.size() or not all(self.cache.holds(self.weight_hash(w), k) for w in by_size):
                    raise
                missing = []
        if missing:
            self._check_room(weights, k)
        cost = {w.key: w.shape[0] * w.shape[1] * min(w.shape) for w in missing}
        total, done, start = sum(cost.values()), 0, time.monotonic()
        yield Progress(0, len(missing), 0.0 if missing else 1.0, "", None if missing else 0.0)
        pending, refused = deque(sorted(missing, key=lambda w: cost[w.key], reverse=True)), 0
        while pending and not stop():
            weight = pending.popleft()
            with self._claim(weight) as mine:
                if mine:
                    self.get(weight, k)
            if not mine:
                pending.append(weight)
                refused += 1
                if refused >= len(pending):
                    time.sleep(_LOOK_AGAIN)
                continue
            refused = 0
            done += cost[weight.key]
            elapsed, count = time.monotonic() - start, len(missing) - len(pending)
            yield Progress(count, len(missing), done / total, weight.module, elapsed * (total - done) / done)

    def _claim_path(self, weight: Weight) -> Path:
        # Hashed, since a key in a file from anyone need not be a file name.
        name = hashlib.sha256(weight.key.encode()).hexdigest()[:32]
        return self.cache.folder / "claims" / f"{self._memo_path.stem}-{name}.lock"

    @contextmanager
    def _claim(self, weight: Weight) -> Iterator[bool]:
        """Hold a weight for this process; False when another has it. Released by the system if the process dies."""
        path = self._claim_path(weight)
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with FileLock(path, timeout=0):
                # Another process may have done it since this one looked.
                self._hashes = _read_memo(self._memo_path) | self._hashes
                yield True
                # At worst two processes then compute the same bytes.
                path.unlink(missing_ok=True)
        except Timeout:
            yield False

    def _check_room(self, weights: list[Weight], k: int | None) -> None:
        """Raise if the spectra would push each other out of the cache, and so be computed again and again."""
        stored = [(stored_k(w.shape, None if k is None else min(k, *w.shape)), w.shape) for w in weights]
        needed = sum(4 * rank * (m + n) for rank, (m, n) in stored)
        if needed > self.cache.limit:
            raise HiploraError(
                f"The spectra of {self.base.name} take {needed / 1e9:.2g} GB, more than the cache may hold "
                f"({self.cache.limit / 1e9:.2g} GB): set HIPLORA_CACHE_LIMIT to more bytes, or use a smaller k."
            )

    def _remember(self, weight: Weight, weight_hash: str) -> None:
        if self._hashes.get(weight.key) == weight_hash:
            return
        self._hashes[weight.key] = weight_hash
        # A cache that can only be read serves what it has.
        with suppress(OSError, HiploraError):
            (self.cache.folder / "claims").mkdir(parents=True, exist_ok=True)
            with FileLock(self.cache.folder / "claims" / f"{self._memo_path.stem}.lock"):
                self._hashes = _read_memo(self._memo_path) | self._hashes
                with atomic_path(self._memo_path) as draft:
                    draft.write_text(json.dumps(self._hashes))


def _read_memo(path: Path) -> dict[str, str]:
    """Return remembered hashes; a damaged memo is dropped, since it can be made again."""
    try:
        memo = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    return memo if isinstance(memo, dict) else {}


@cache
def resolve_device(device: str) -> str:
    """Return `cpu` or a CUDA device for `auto`, `cpu` or `cuda`: under `torchrun` each process has its own.

    Raises:
        HiploraError: CUDA is asked for and is not there.
    """
    # Without NVIDIA's tools there cannot be a CUDA GPU, and the import of torch would only take time.
    if device == "cpu" or (device == "auto" and shutil.which("nvidia-smi") is None):
        return "cpu"
    import torch

    if torch.cuda.is_available():
        return f"cuda:{os.environ['LOCAL_RANK']}" if "LOCAL_RANK" in os.environ else "cuda"
    if device == "auto":
        return "cpu"
    raise HiploraError(f"device {device} is not available: torch {torch.__version__} sees no CUDA GPU, use cpu.")
