"""The command line in this process."""

import pytest

from hiplora.cli import main


@pytest.fixture
def run(capsys):
    """Return `run(*arguments) -> (exit code, lines of stdout, lines of stderr)`, in this process."""

    def run(*arguments):
        code = main([str(argument) for argument in arguments])
        out, err = capsys.readouterr()
        return code, out.splitlines(), err.splitlines()

    return run
