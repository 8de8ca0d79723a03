"""Mutate known inputs of one target: `python -m tests.fuzz TARGET --inputs N [--seed S]`."""

import argparse

from tests.fuzz.targets import TARGETS, campaign


def main() -> None:
    """Run a campaign and print its figures."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz")
    parser.add_argument("target", choices=sorted(TARGETS))
    parser.add_argument("--inputs", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    chosen = parser.parse_args()
    print(campaign(chosen.target, chosen.inputs, chosen.seed))


if __name__ == "__main__":
    main()
