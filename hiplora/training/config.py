"""What a run is asked to do: written to `run.json` before it starts, and all that is needed to do it again."""

import dataclasses
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from hiplora.errors import HiploraError
from hiplora.files import user_path
from hiplora.sources import known_bases
from hiplora.training.methods import find_method

_DEFAULTS: dict[str, dict[str, Any]] = {
    "task": {"batch_size": 64, "learning_rate": 2e-3, "threads": 1},
    "data": {"batch_size": 4, "learning_rate": 2e-4, "threads": os.cpu_count() or 1},
}
_LARGE = 1e38


@dataclass(frozen=True)
class RunConfig:
    """One training run.

    What is None is filled in: batch size, learning rate and threads by whether a task of the demo world or a file is
    learned, warm-up as 5 % of the steps, the intervals as about 30 measurements and 12 checkpoints.

    Attributes:
        base: a folder, a known name, or a hub name that was fetched before.
        method: a key of `hiplora.training.METHODS`.
        task: a task of the demo world; or else
        data: a text file or JSONL with `text`, `prompt` and `completion`, or `messages`.
        probe: a text file or JSONL whose loss tells what the base forgets, for runs on `data`.
        r: rank of the LoRA whose number of trainable parameters every method gets.
        lora_alpha: updates are scaled by `lora_alpha / r` (rsLoRA: by the root).
        principal_rank: k, of the principal channel; also what any method is measured at.
        core: `full` or `diagonal` (HiP-LoRA).
        budget_mode: `soft` or `hard` (HiP-LoRA).
        budget_lambda: weight of the cost in soft mode (HiP-LoRA).
        epsilon: the budget; for other methods, what their tightness is measured against.
        epsilon_pattern: `{module: epsilon}` where it differs.
        budget_power: p of the budget's weights.
        steps: optimiser steps.
        batch_size: examples per step.
        learning_rate: peak of AdamW's cosine schedule.
        warmup_steps: of linear warm-up.
        weight_decay: AdamW's.
        max_length: longest example in tokens, for `data`.
        seed: of initial weights, data and their order.
        device: `auto` is CUDA where there is one, else the CPU.
        threads: of torch on the CPU.
        measure_every: steps between two measurements of the update.
        score_every: steps between two scores.
        save_every: steps between two checkpoints.
        evaluation_size: examples per skill behind the last scores, for a task; while it trains at most 50.

    Raises:
        HiploraError: a value is out of range, or neither or both of `task` and `data` are given.
    """

    base: str
    method: str = "hiplora"
    task: str | None = None
    data: str | None = None
    probe: str | None = None
    r: int = 8
    lora_alpha: float = 16.0
    principal_rank: int = 16
    core: Literal["full", "diagonal"] = "full"
    budget_mode: Literal["soft", "hard"] = "soft"
    budget_lambda: float = 10.0
    epsilon: float = 0.05
    epsilon_pattern: dict[str, float] = field(default_factory=dict)
    budget_power: float = 1.0
    steps: int = 300
    batch_size: int | None = None
    learning_rate: float | None = None
    warmup_steps: int | None = None
    weight_decay: float = 0.0
    max_length: int = 256
    seed: int = 0
    device: Literal["auto", "cpu", "cuda"] = "auto"
    threads: int | None = None
    measure_every: int | None = None
    score_every: int | None = None
    save_every: int | None = None
    evaluation_size: int = 400

    def __post_init__(self) -> None:
        for name in ("base", "method"):
            self._check(name, str, bool, "a name or a path")
        for name in ("task", "data", "probe"):
            self._check(name, (str, type(None)), lambda value: value != "", "a name or a path, or left out")
        find_method(self.method)
        if (self.task is None) == (self.data is None):
            raise HiploraError("Choose what to learn: either a task of the demo world or a data file.")
        if self.probe and not self.data:
            raise HiploraError("A probe file goes with a data file: the demo world's tasks are scored on its skills.")
        kind = "task" if self.task else "data"
        if self.task:
            from hiplora.demo.skills import TASKS

            if self.task not in TASKS:
                raise HiploraError(f"'{self.task}' is no task of the demo world: choose one of {', '.join(TASKS)}.")
        defaults = _DEFAULTS[kind] | {
            "warmup_steps": self.steps // 20,
            "measure_every": max(1, self.steps // 30) if kind == "task" else max(5, self.steps // 12),
            "score_every": max(5, self.steps // 12),
            "save_every": max(5, self.steps // 12),
        }
        for name, value in defaults.items():
            if getattr(self, name) is None:
                object.__setattr__(self, name, value)
        for name in ("r", "principal_rank", "steps", "batch_size", "max_length", "threads", "measure_every",
                     "score_every", "save_every", "evaluation_size"):  # fmt: skip
            self._check(name, int, lambda value: 1 <= value < 2**31, "a whole number of at least 1")
        for name in ("warmup_steps", "seed"):
            self._check(name, int, lambda value: 0 <= value < 2**32, "a whole number of at least 0")
        for name in ("lora_alpha", "epsilon", "learning_rate"):
            self._check(name, (int, float), lambda value: 0 < value < _LARGE, "a positive number")
        for name in ("budget_lambda", "budget_power", "weight_decay"):
            self._check(name, (int, float), lambda value: 0 <= value < _LARGE, "0 or a positive number")
        for name, choices in (("core", ("full", "diagonal")), ("budget_mode", ("soft", "hard")),
                              ("device", ("auto", "cpu", "cuda"))):  # fmt: skip
            self._check(name, str, lambda value, choices=choices: value in choices, f"one of {', '.join(choices)}")

        self._check("threads", int, lambda value: value <= 1024, "at most 1024")
        self._check(
            "epsilon_pattern",
            dict,
            lambda value: all(isinstance(e, (int, float)) and 0 < e < _LARGE for e in value.values()),
            "positive numbers by module",
        )

    def _check(self, name: str, kind: Any, fits: Any, rule: str) -> None:
        value = getattr(self, name)
        if isinstance(value, bool) or not isinstance(value, kind) or not fits(value):
            raise HiploraError(f"{name} must be {rule}, got {value!r}.")

    @property
    def goal(self) -> str:
        """What is learned: the task's name, or the file's."""
        return self.task or Path(str(self.data)).stem

    @property
    def default_name(self) -> str:
        """What to call the run's folder."""
        return f"{self.goal}-{self.method}-s{self.seed}"

    def at_home(self) -> "RunConfig":
        """Return the same with absolute paths: a known or a hub name stays as it is."""
        known = self.base.lower() in {base.name.lower() for base in known_bases()}
        names = ("data", "probe") if known else ("base", "data", "probe")
        paths = {name: user_path(value) for name in names if (value := getattr(self, name))}
        found: dict[str, Any] = {name: str(path.resolve()) for name, path in paths.items() if path.exists()}
        return dataclasses.replace(self, **found)

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as JSON holds them."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, fields: Any) -> "RunConfig":
        """Read what `to_dict` wrote.

        Raises:
            HiploraError: a field is unknown, missing or out of range.
        """
        if not isinstance(fields, dict):
            raise HiploraError("It holds no settings of a run.")
        known = {f.name for f in dataclasses.fields(cls)}
        if unknown := set(fields) - known:
            raise HiploraError(f"A run's settings hold '{sorted(unknown)[0]}', which this version does not know.")
        if "base" not in fields:
            raise HiploraError("A run's settings name no base.")
        return cls(**fields)
