"""A folder as a zip, to be taken away."""

import io
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any


def zip_of(write: Callable[[Path], Any], name: str) -> bytes:
    """Return a zip of what a function writes.

    Args:
        write: is given a folder that does not exist yet, and writes it.
        name: of the folder in the zip; slashes in it become dashes.
    """
    content = io.BytesIO()
    with tempfile.TemporaryDirectory() as folder, zipfile.ZipFile(content, "w") as packed:
        out = Path(folder) / "out"
        write(out)
        for file in sorted(out.iterdir()):
            packed.write(file, f"{name.replace('/', '-')}/{file.name}")
    return content.getvalue()
