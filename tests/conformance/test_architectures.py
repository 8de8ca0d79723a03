"""Architectures x tuners: each row of an adapter against PEFT's merged weights minus the base, in float64.

The table in docs/formats.md says what is read; here it is held against what is seen.
`python -m tests.conformance` prints it.
"""

import pytest

from tests.conformance.architectures import ARCHITECTURES
from tests.conformance.table import CHOSEN, READ, REFUSED, documented, outcomes


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_every_tuner_is_read_as_the_table_says(name, tmp_path):
    assert outcomes(name, tmp_path) == documented()[name]


def test_the_table_is_as_large_as_it_claims():
    table = documented()
    assert list(table) == list(ARCHITECTURES)
    assert all(list(row) == list(CHOSEN) for row in table.values())
    assert {cell for row in table.values() for cell in row.values()} <= {READ, REFUSED}
