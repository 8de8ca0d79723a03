"""Ratios of time and memory against peers: `python -m tests.benchmarks --help`. Not part of the test run."""
