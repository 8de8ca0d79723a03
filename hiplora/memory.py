"""A cache of recent results, shared by threads."""

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Any, TypeVar

_T = TypeVar("_T")


class Memory:
    """The results of the most recent computations, by key.

    Two threads that ask for the same missing result both compute it; neither waits for the other.

    Args:
        size: how many results are kept.
    """

    def __init__(self, size: int):
        self._size = size
        self._lock = threading.Lock()
        self._found: OrderedDict[Hashable, Any] = OrderedDict()

    def get(self, key: Hashable, compute: Callable[[], _T], enough: Callable[[_T], bool] = lambda _: True) -> _T:
        """Return the result kept under a key; compute it if there is none, or if the one kept is not `enough`."""
        with self._lock:
            if key in self._found and enough(self._found[key]):
                self._found.move_to_end(key)
                found: _T = self._found[key]
                return found
        made = compute()
        with self._lock:
            self._found[key] = made
            if len(self._found) > self._size:
                self._found.popitem(last=False)
        return made
