"""`card.json` beside a base or an adapter: how it was made and what it scored."""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from hiplora.files import atomic_path, read_json

CARD_FILE = "card.json"


@dataclass(frozen=True)
class Card:
    """The recorded training and scores of a base or an adapter. A missing or invalid value is None.

    Attributes:
        task: what it was trained on.
        method: key of the training method.
        seed: of weights and data.
        steps: optimizer steps.
        batch_size: examples per step.
        learning_rate: peak.
        trainable_parameters: how many numbers were trained.
        relative_norm: `||dW||_F / ||W0||_F` over all adapted modules.
        task_score: on its task, 0 to 1.
        skills: `{skill: score}`, 0 to 1.
        retention: share of the base's skills that is kept; relative to the base, so it may exceed 1.
        scored_at: step of the scores.
        seconds: of training.
        shadow_prices: `{module: task loss per unit of cost}`.
        more: everything else in the file, as it stands there.
    """

    task: str | None = None
    method: str | None = None
    seed: float | None = None
    steps: float | None = None
    batch_size: float | None = None
    learning_rate: float | None = None
    trainable_parameters: float | None = None
    relative_norm: float | None = None
    task_score: float | None = None
    skills: dict[str, float] = field(default_factory=dict)
    retention: float | None = None
    scored_at: float | None = None
    seconds: float | None = None
    shadow_prices: dict[str, float] = field(default_factory=dict)
    more: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def read(cls, folder: Path) -> "Card":
        """Read the card in a folder; return an empty one if the file is missing.

        Raises:
            HiploraError: the file is damaged.
        """
        path = folder / CARD_FILE
        return cls.of(read_json(path)) if path.is_file() else cls()

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> "Card":
        """Return the card of a JSON object."""
        found: dict[str, Any] = {"more": {name: value for name, value in values.items() if name not in _KNOWN}}
        for name in _KNOWN & set(values):
            value = values[name]
            if name in ("task", "method"):
                found[name] = value if isinstance(value, str) and value else None
            elif name in ("skills", "shadow_prices"):
                entries = value.items() if isinstance(value, dict) else ()
                found[name] = {key: number for key, entry in entries if (number := _number(entry)) is not None}
            else:
                found[name] = _number(value)
        return cls(**found)

    def to_dict(self) -> dict[str, Any]:
        """Return the content of the file: every known value, and `more`."""
        known = {name: value for name, value in vars(self).items() if name != "more" and value not in (None, {})}
        return known | self.more

    def write(self, folder: Path) -> None:
        """Write the card into a folder.

        Raises:
            HiploraError: the folder cannot be written.
        """
        with atomic_path(folder / CARD_FILE) as draft:
            draft.write_text(json.dumps(self.to_dict(), indent=2) + "\n", encoding="utf-8")


_KNOWN = {entry.name for entry in fields(Card)} - {"more"}


def _number(value: Any) -> float | None:
    """Return a finite number as it stands in JSON; None for anything else."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        return value if math.isfinite(value) else None
    except OverflowError:
        return None
