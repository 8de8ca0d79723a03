"""Waiting for what another process or thread does: as long as a busy machine may need."""

import subprocess
import time
from collections.abc import Callable

LIMIT = 240
"""Seconds. Only a test that fails waits so long."""


def until(condition: Callable[[], object], process: "subprocess.Popen[str] | None" = None) -> None:
    """Return when the condition holds.

    Args:
        condition: asked twenty times a second.
        process: that is to bring it about: where it has ended, there is nothing to wait for.
    """
    end = time.monotonic() + LIMIT
    while not condition():
        assert process is None or process.poll() is None, "the process ended before it happened"
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.05)
