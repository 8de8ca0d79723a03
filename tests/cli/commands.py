"""The command line as a user runs it."""

import os
import subprocess
import sys

import pytest

from tests.waiting import LIMIT


def hiplora(*arguments, **environment):
    """Run the command as a user does."""
    return subprocess.run(
        [sys.executable, "-m", "hiplora", *map(str, arguments)],
        capture_output=True,
        text=True,
        env=os.environ | environment,
        timeout=LIMIT,
    )


def refuse(*_, **__):
    pytest.fail("worked first")
