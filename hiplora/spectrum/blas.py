"""The number of threads of numpy and scipy."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

from threadpoolctl import OpenBLASController, ThreadpoolController


@contextmanager
def one_blas_thread() -> Iterator[None]:
    """Let numpy and scipy use one BLAS thread within the block; torch is left alone.

    The threads of OpenBLAS wait actively at the end of each parallel step, and numpy and scipy each bring their own.
    Where they, or another process, want the same core, two threads are 4 to 20 times as slow as one; on a quiet machine
    they save little. One thread also gives the same bits, whatever the process was started with.

    Blocks may be nested, and run side by side in threads: the first to begin sets the limit of the process, the last to
    end restores what was there. Nothing is locked while a block runs.
    """
    with _SHARED_LIMIT, _libraries()[1].limit(limits=1):
        yield


class _SharedLimit:
    """The limit of the libraries with one number of threads per process, set while any block needs it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._blocks = 0
        self._limiter: Any = None

    def __enter__(self) -> None:
        with self._lock:
            if not self._blocks:
                _let_this_thread_set_limits()
                self._limiter = _libraries()[0].limit(limits=1)
            self._blocks += 1

    def __exit__(self, *error: object) -> None:
        with self._lock:
            self._blocks -= 1
            if not self._blocks:
                _let_this_thread_set_limits()
                self._limiter.restore_original_limits()
                OpenBLASController.clear_controlling_thread()


_SHARED_LIMIT = _SharedLimit()


def _let_this_thread_set_limits() -> None:
    """Take over from the thread that set a limit last: threadpoolctl silently ignores all others."""
    OpenBLASController.clear_controlling_thread(force=True)


@cache
def _libraries() -> tuple[ThreadpoolController, ThreadpoolController]:
    """Return the BLAS libraries of numpy and scipy: those with a limit per process, and those with one per thread.

    Only loaded libraries are found; scipy loads its own and numpy's.
    """
    import scipy.linalg  # noqa: F401

    found = ThreadpoolController().select(user_api="blas")
    ours = [library for library in found.lib_controllers if not _is_of_torch(Path(library.filepath))]
    by_process = [library.filepath for library in ours if not _counts_by_thread(library)]
    by_thread = [library.filepath for library in ours if _counts_by_thread(library)]
    return found.select(filepath=by_process), found.select(filepath=by_thread)


def _is_of_torch(path: Path) -> bool:
    """Return whether this library is from a wheel of torch: on some systems its BLAS is a file of its own."""
    return path.parent.parts[-2:] == ("torch", "lib") or path.parent.name == "torch.libs"


def _counts_by_thread(library: Any) -> bool:
    """Return whether a limit holds only for the thread that sets it: MKL, and OpenBLAS when built on OpenMP."""
    return library.internal_api == "mkl" or (library.internal_api == "openblas" and library.threading_layer == "openmp")
