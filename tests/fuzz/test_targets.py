"""The corpus, and a small share of the fuzzing; `python -m tests.fuzz` does the rest."""

import pytest

from tests.fuzz.campaign import campaign
from tests.fuzz.targets import TARGETS


@pytest.mark.parametrize("name", TARGETS)
def test_mutated_input_raises_only_what_is_promised(name):
    campaign(name, inputs=300)
