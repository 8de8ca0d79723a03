"""Print the table of architectures and tuners, for docs/formats.md: `python -m tests.conformance`."""

import tempfile
from pathlib import Path

from tests.conformance.architectures import ARCHITECTURES
from tests.conformance.table import as_markdown, outcomes

with tempfile.TemporaryDirectory() as folder:
    print(as_markdown({name: outcomes(name, Path(folder) / str(i)) for i, name in enumerate(ARCHITECTURES)}))
