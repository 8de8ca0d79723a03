"""How many threads numpy and scipy use."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

from threadpoolctl import ThreadpoolController

# The limit is the process's: a second thread that set and lifted it in between would undo it.
_LOCK = threading.RLock()


@contextmanager
def one_blas_thread() -> Iterator[None]:
    """Let numpy and scipy use one thread, and no other thread of this process come here meanwhile; may be nested.

    A decomposition has thousands of short parallel steps, and OpenBLAS waits actively at the end of each; numpy and
    scipy each bring one. Where they, or another process, want the same core, two threads are 4 to 20 times as slow as
    one; on a quiet machine they save little. One thread also gives the same bits whatever number a process was started
    with.
    """
    with _LOCK, _blas().limit(limits=1, user_api="blas"):
        yield


@cache
def _blas() -> ThreadpoolController:
    return ThreadpoolController()
