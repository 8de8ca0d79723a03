"""Mutate known inputs of targets: `python -m tests.fuzz [TARGET] --inputs N`, or `--seconds S`; see CONTRIBUTING.md.

With atheris (`pip install atheris`) the mutation is guided by coverage, and inputs that reach new code are added to the
corpus; without it, it starts from the corpus.
"""

import argparse
import importlib.util
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.fuzz.campaign import campaign, corpus, keep
from tests.fuzz.targets import TARGETS


def main() -> None:
    """Run campaigns and print their figures."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz")
    parser.add_argument("target", nargs="?", choices=sorted(TARGETS), help="one target (default: each in turn)")
    parser.add_argument("--inputs", type=int, default=10_000, help="for each target (default: %(default)s)")
    parser.add_argument("--seconds", type=float, default=0.0, help="for each target, in place of a number of inputs")
    parser.add_argument("--seed", type=int, default=0)
    chosen = parser.parse_args()
    inputs = 0 if chosen.seconds else chosen.inputs
    guided = importlib.util.find_spec("atheris") is not None
    for name in [chosen.target] if chosen.target else TARGETS:
        if guided:
            _guided(name, inputs, chosen.seconds, chosen.seed)
        else:
            print(campaign(name, inputs, chosen.seconds, chosen.seed), flush=True)


def _guided(name: str, inputs: int, seconds: float, seed: int) -> None:
    """Run a campaign in a process of its own, which libFuzzer ends, and add what it found to the corpus."""
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "corpus"
        folder.mkdir()
        for number, content in enumerate(corpus(name)):
            (folder / str(number)).write_bytes(content)
        command = [sys.executable, "-m", "tests.fuzz.guided", name, str(inputs), str(seconds), str(seed), str(folder)]
        done = subprocess.run(command, stderr=subprocess.PIPE, text=True, errors="replace")
        keep(name, [path.read_bytes() for path in folder.iterdir()])
    if done.returncode:
        sys.exit(done.stderr[-6000:])


if __name__ == "__main__":
    main()
