"""The table of architectures and tuners: made by comparing, and as the documentation has it."""

import itertools
from pathlib import Path
from typing import Final

import torch

from hiplora.adapters import place, read_adapter
from hiplora.sources import open_base
from tests.conformance.architectures import ARCHITECTURES, target_modules
from tests.conformance.merged import disagreements, train
from tests.conformance.tuners import config_of

CHOSEN: Final = (
    "LoRA", "rsLoRA", "DoRA", "PiSSA", "KaSA", "AdaLoRA", "LoHa", "LoKr", "OFT", "BOFT", "VeRA", "VB-LoRA", "(IA)³",
    "OSF", "C3A", "HRA", "FourierFT", "DeLoRA",
)  # fmt: skip
"""The tuners of the table."""
READ, REFUSED, WRONG = "yes", "–", "wrong"
_DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "formats.md"
# Single precision, in which PEFT takes the weight apart that some of these start from; others agree to 1e-11.
_BOUND = 1e-5


def outcomes(architecture: str, folder: Path) -> dict[str, str]:
    """Train, save, read and merge an adapter of each tuner, and return `{tuner: read, refused by PEFT, or wrong}`.

    Args:
        architecture: its name in the table.
        folder: an empty one, for the files.
    """
    torch.manual_seed(0)
    model = ARCHITECTURES[architecture]().eval()
    model.save_pretrained(folder / "base")
    base, targets = open_base(folder / "base"), target_modules(model)
    found = {}
    for tuner in CHOSEN:
        try:
            trained = train(model, config_of(tuner, targets), folder / tuner)
        except (ValueError, TypeError, RuntimeError, AttributeError):
            # PEFT does not put it on these maps.
            found[tuner] = REFUSED
            continue
        if not trained.deltas:
            found[tuner] = REFUSED
            continue
        errors = disagreements(place(base, read_adapter(trained.folder)), trained.deltas)
        found[tuner] = READ if len(errors) == len(targets) and max(errors.values()) < _BOUND else WRONG
    return found


def documented() -> dict[str, dict[str, str]]:
    """Return the table of docs/formats.md."""
    lines = [line for line in _DOCUMENT.read_text().splitlines() if line.startswith("|")]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    start = next(i for i, row in enumerate(rows) if row[0] == "Architecture")
    body = itertools.takewhile(lambda row: len(row) == len(rows[start]), rows[start + 2 :])
    return {row[0]: dict(zip(rows[start][1:], row[1:], strict=True)) for row in body}


def as_markdown(table: dict[str, dict[str, str]]) -> str:
    """Return a table as the documentation has it."""
    head = f"| Architecture | {' | '.join(CHOSEN)} |\n|{' --- |' * (len(CHOSEN) + 1)}"
    return "\n".join([head, *(f"| {name} | {' | '.join(row.values())} |" for name, row in table.items())])
