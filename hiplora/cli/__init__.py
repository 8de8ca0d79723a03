"""The command line: one function for each command of `hiplora`, see `hiplora --help`.

Numpy and heavier packages are imported by the commands that need them, so that `--help` is quick.
"""

import os
import sys
import warnings
from collections.abc import Sequence

from hiplora.cli.console import INTERRUPTED, say, show_warning
from hiplora.cli.parser import build_parser, mistyped
from hiplora.cli.running import app
from hiplora.errors import HiploraError

__all__ = ["main"]


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
        argv: arguments without the program's name; those of the process by default.

    Returns:
        Exit code: 0; 1 if something that was checked is not so; 2 if none of the input can be used (one sentence on
        stderr); 130 if stopped on request.
    """
    parser = build_parser()
    given = sys.argv[1:] if argv is None else argv
    if not given:
        parser.print_help(sys.stderr)
        return 2
    if meant := mistyped(given):
        parser.error(meant)
    args, extra = parser.parse_known_args(given)
    if extra and args.run is not app:
        parser.error(f"unrecognized arguments: {' '.join(extra)}")
    args.extra = extra
    with warnings.catch_warnings():
        warnings.showwarning = show_warning
        try:
            return int(args.run(args) or 0)
        except KeyboardInterrupt:
            say("hiplora: stopped.")
            return INTERRUPTED
        except BrokenPipeError:
            # The reader, such as `head`, has closed the pipe: Python must not write to it at exit.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return 1
        except (HiploraError, OSError) as error:
            say(f"hiplora: {error}")
            return 2
