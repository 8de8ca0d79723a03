"""Mutated input for every reader of a run: `python -m tests.fuzz TARGET --inputs N`."""
