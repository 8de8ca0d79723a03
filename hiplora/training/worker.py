"""A process that trains one run: `python -m hiplora.training.worker`.

It imports the slow packages, then waits for the run's folder on its standard input. When the input closes, the
process that started it has died or released it: the run then ends with a checkpoint.
"""

import os
import sys
import threading
from pathlib import Path


def main() -> int:
    """Wait for a folder, train, and return the exit code: 0, or 2 when the run failed."""
    # Slow imports first: they are done by the time a folder arrives.
    import peft  # noqa: F401
    import transformers.trainer  # noqa: F401

    from hiplora.errors import HiploraError
    from hiplora.training.run import Run
    from hiplora.training.train import train

    folder = sys.stdin.readline().strip()
    if not folder:
        return 0
    log = os.open(Path(folder) / "log.txt", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    for stream in (1, 2):
        os.dup2(log, stream)
    ended = threading.Event()

    def watch() -> None:
        while sys.stdin.readline():
            pass
        ended.set()

    threading.Thread(target=watch, daemon=True).start()
    try:
        train(Run(folder), ended.is_set)
    except HiploraError as error:
        sys.stderr.write(f"{error}\n")
        return 2
    return 0


if __name__ == "__main__":
    code = main()
    sys.stdout.flush()
    sys.stderr.flush()
    # The thread that reads the input would block an ordinary exit.
    os._exit(code)
