"""A small share of the fuzzing; `python -m tests.fuzz` does the rest."""

import pytest

from tests.fuzz.targets import TARGETS, campaign


@pytest.mark.parametrize("name", TARGETS)
def test_mutated_input_raises_only_what_is_promised(name):
    campaign(name, inputs=200)
