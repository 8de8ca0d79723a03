"""Spectra on disk, under a content key: a weight is decomposed once, in any number of model folders.

The inputs observed on a text lie beside them, a folder for each text, and count as one entry.
"""

import hashlib
import json
import os
import shutil
import warnings
from contextlib import suppress
from functools import cache
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from hiplora.errors import HiploraError
from hiplora.files import atomic_path, check_writable
from hiplora.paths import cache_root
from hiplora.spectrum.spectrum import InputSpectrum, Spectrum

# Version of the algorithm and of the file layout. Part of the key: a change here never reads an older entry.
_VERSION = "2"
# Up to this size all triplets are kept: it takes a second at most, and every measure is then exact.
_COMPLETE_UP_TO = 1024
# Entries are read up to here without touching the rest: enough for a usual k.
_HEAD = 64
_DEFAULT_LIMIT = 20 * 2**30


def stored_k(shape: tuple[int, int], k: int | None) -> int:
    """Return the number of triplets to compute and keep when `k` are requested (None: all).

    A fixed rule, so that all requests for common values of `k` get the same bits: all triplets of a small weight, else
    `k` rounded up to a multiple of 64.

    Raises:
        HiploraError: `k` is not between 1 and `min(shape)`.
    """
    smallest = min(shape)
    if k is not None and not 1 <= k <= smallest:
        raise HiploraError(f"principal rank k={k} does not fit a {shape[0]} x {shape[1]} weight: use 1 to {smallest}.")
    return smallest if k is None or smallest <= _COMPLETE_UP_TO else round_up(k, smallest)


def round_up(k: int, largest: int) -> int:
    """Return `k` rounded up to a multiple of 64, at most `largest`: the number read or measured at once."""
    return min(-(-k // _HEAD) * _HEAD, largest)


def default_cache() -> "SpectrumCache":
    """Return the user's cache: `$HIPLORA_CACHE` or the system's cache folder, up to `$HIPLORA_CACHE_LIMIT` bytes."""
    limit = os.environ.get("HIPLORA_CACHE_LIMIT", str(_DEFAULT_LIMIT))
    if not limit.isdigit():
        raise HiploraError(f"HIPLORA_CACHE_LIMIT must be a number of bytes, got {limit!r}.")
    return _cache_at(cache_root(), int(limit))


@cache
def _cache_at(folder: Path, limit: int) -> "SpectrumCache":
    return SpectrumCache(folder, limit)


class SpectrumCache:
    """A folder of spectra, one file each, written atomically, checksummed and limited in size.

    Safe for several processes on one folder: an entry appears whole by a rename, and two that compute the same one
    write the same bytes. The least recently used entries go first when the limit is passed.

    Args:
        folder: made on the first write.
        limit: bytes that the entries may take together.
    """

    def __init__(self, folder: Path, limit: int = _DEFAULT_LIMIT):
        self.folder = folder
        self.limit = limit

    def lookup(self, weight_hash: str, k: int | None = None) -> Spectrum | None:
        """Return the leading `k` triplets (None: all) of the weight with this hash, or None when they are not kept.

        A damaged entry is removed with a warning, and counts as missing.
        """
        entries = sorted(self._entries(weight_hash), key=lambda entry: entry[0])
        for stored, path in entries:
            complete = path.stem.endswith("-complete")
            if (k is None and not complete) or (k is not None and stored < k):
                continue
            try:
                spectrum = self._load(path, weight_hash, k)
            except FileNotFoundError:  # removed meanwhile by another process to make room
                continue
            except (SafetensorError, OSError, ValueError, KeyError, TypeError) as error:
                warnings.warn(f"{path} is damaged ({error}) and will be rebuilt.", stacklevel=2)
                with suppress(OSError):
                    path.unlink()
                continue
            return spectrum if k is None else spectrum.truncate(k)
        return None

    def holds(self, weight_hash: str, k: int | None = None) -> bool:
        """Return whether `lookup` would find an entry, without reading it."""
        return any(
            path.stem.endswith("-complete") or (k is not None and stored >= k)
            for stored, path in self._entries(weight_hash)
        )

    def size(self) -> int:
        """Bytes that the entries take, and the inputs observed for them."""
        return sum(size for _, size, _ in self._by_last_use())

    def clear(self) -> None:
        """Remove every entry, and the inputs observed for them.

        Raises:
            HiploraError: some cannot be removed; all others are.
        """
        entries, problems = self._by_last_use(), []
        for _, _, path in entries:
            try:
                _remove(path)
            except OSError as error:
                problems.append(error)
        for folder in ("spectra", "inputs"):
            shutil.rmtree(self.folder / folder, ignore_errors=True)
        if problems:
            raise HiploraError(
                f"{len(problems)} of {len(entries)} entries in {self.folder} cannot be removed "
                f"({problems[0].strerror}): make the folder writable, or set HIPLORA_CACHE to another one."
            )

    def _entries(self, weight_hash: str) -> list[tuple[int, Path]]:
        folder = self.folder / "spectra" / weight_hash[:2]
        start = f"{weight_hash}-v{_VERSION}-"
        try:
            paths = [path for path in folder.iterdir() if path.name.startswith(start) and path.suffix == ".safetensors"]
        except OSError:
            return []
        return [(int(path.stem.split("-")[2]), path) for path in paths]

    def store(self, spectrum: Spectrum) -> None:
        """Keep a spectrum, and make room for it.

        Raises:
            HiploraError: the folder cannot be written.
        """
        name = f"{spectrum.weight_hash}-v{_VERSION}-{spectrum.k}{'-complete' if spectrum.complete else ''}"
        path = self.folder / "spectra" / spectrum.weight_hash[:2] / f"{name}.safetensors"
        tensors = {"sigma": spectrum.sigma}
        for part, rows in (("head", slice(0, _HEAD)), ("tail", slice(_HEAD, None))):
            tensors[f"Ut.{part}"] = np.ascontiguousarray(spectrum.Ut[rows])
            tensors[f"Vt.{part}"] = np.ascontiguousarray(spectrum.Vt[rows])
        if isinstance(spectrum, InputSpectrum):
            tensors |= {"gram": np.ascontiguousarray(spectrum.gram), "through": spectrum.through}
        header = {
            "shape": spectrum.shape,
            "frobenius": spectrum.frobenius,
            "residual": spectrum.residual,
            "algorithm": spectrum.algorithm,
            "checksums": {name: _checksum(tensor) for name, tensor in tensors.items()},
        }
        if isinstance(spectrum, InputSpectrum):
            header["spread"] = spectrum.spread
        check_writable(self.folder)
        with atomic_path(path) as draft:
            text = json.dumps(header)
            # One key: the order of several in the file would be random.
            save_file(tensors, draft, {"spectrum": f"{_checksum(text.encode())} {text}"})
        self.make_room(keep=path)

    def _load(self, path: Path, weight_hash: str, k: int | None) -> Spectrum:
        with safe_open(path, "np") as file:
            checksum, _, text = file.metadata()["spectrum"].partition(" ")
            if _checksum(text.encode()) != checksum:
                raise ValueError("checksum of the header differs")
            header = json.loads(text)

            def read(name: str) -> np.ndarray:
                tensor = file.get_tensor(name)
                if _checksum(tensor) != header["checksums"][name]:
                    raise ValueError(f"checksum of {name} differs")
                return tensor

            sigma, Ut, Vt = read("sigma"), read("Ut.head"), read("Vt.head")
            if k is None or k > _HEAD:
                Ut, Vt = np.concatenate([Ut, read("Ut.tail")]), np.concatenate([Vt, read("Vt.tail")])
            kept = len(Ut)
            inputs = (
                {"gram": read("gram")[:kept, :kept], "through": read("through")[:kept], "spread": header["spread"]}
                if "spread" in header
                else {}
            )
        with suppress(OSError):  # a shared cache may belong to someone else
            os.utime(path)
        return (InputSpectrum if inputs else Spectrum)(
            Ut=Ut,
            sigma=sigma[:kept],
            Vt=Vt,
            shape=(header["shape"][0], header["shape"][1]),
            frobenius=header["frobenius"],
            residual=header["residual"],
            algorithm=header["algorithm"],
            weight_hash=weight_hash,
            **inputs,
        )

    def make_room(self, keep: Path) -> None:
        """Remove the least recently used entries until the limit holds; never the one just written.

        Args:
            keep: that one, a spectrum's file or the folder of observed inputs.
        """
        entries = self._by_last_use()
        total = sum(size for _, size, _ in entries)
        for _, size, path in entries:
            if total <= self.limit:
                return
            if path != keep:
                with suppress(OSError):
                    _remove(path)
                total -= size

    def _by_last_use(self) -> list[tuple[int, int, Path]]:
        """Return time of last use, size and path of every entry, oldest first."""
        entries = []
        for path in self.folder.glob("spectra/*/*.safetensors"):
            with suppress(FileNotFoundError):  # removed meanwhile by another process
                stat = path.stat()
                entries.append((stat.st_mtime_ns, stat.st_size, path))
        for folder in self.folder.glob("inputs/*"):
            with suppress(OSError):
                stats = [file.stat() for file in folder.iterdir()] or [folder.stat()]
                entries.append((max(s.st_mtime_ns for s in stats), sum(s.st_size for s in stats), folder))
        return sorted(entries)


def _remove(path: Path) -> None:
    """Remove an entry that may be gone already."""
    with suppress(FileNotFoundError):
        shutil.rmtree(path) if path.is_dir() else path.unlink()


def _checksum(data: "np.ndarray | bytes") -> str:
    return hashlib.sha256(data if isinstance(data, bytes) else np.ascontiguousarray(data).data).hexdigest()
