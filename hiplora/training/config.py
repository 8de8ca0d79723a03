"""The settings of a run: written to `run.json` before it starts, and sufficient to repeat it."""

import dataclasses
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

from hiplora.errors import HiploraError
from hiplora.settings import (
    COUNT,
    NOT_NEGATIVE,
    POSITIVE,
    WHOLE,
    HipLoraSettings,
    Rule,
    check_settings,
    one_of,
    setting,
    shared,
)
from hiplora.training.methods import find_method

NAME = Rule("a name or a path", (str,), lambda value: value != "")
NAME_OR_NONE = Rule("a name or a path, or left out", (str, type(None)), lambda value: value != "")
_NAMES = Rule(
    "names or paths of adapters",
    (tuple,),
    lambda value: all(isinstance(name, str) and name for name in value) and len(set(value)) == len(value),
)
_THREADS = Rule("a whole number from 1 to 1024", (int,), lambda value: 1 <= value <= 1024)

BY_GOAL: Final[dict[str, tuple[Any, Any]]] = {
    "batch_size": (64, 4),
    "learning_rate": (2e-3, 2e-4),
    "threads": (1, os.cpu_count() or 1),
}
"""Defaults: for a task of the demo world, and for a file."""


@dataclass(frozen=True, kw_only=True)
class RunConfig(HipLoraSettings):
    """One training run: its data, its method, and the settings of HiP-LoRA and of the training loop.

    Fields left as None get a default: batch size, learning rate and threads depend on whether the run trains on a task
    or a file (`BY_GOAL`), warm-up is 5 % of the steps, and the intervals give about 30 measurements and 12 checkpoints.
    Other methods use `r` and `lora_alpha` too; their updates are measured at `principal_rank` and against `epsilon`.

    Attributes:
        r: rank of the LoRA that all methods match in trainable parameters.
        lora_alpha: updates are scaled by `lora_alpha / r` (rsLoRA: by the root).
        principal_rank: k, a whole number; the updates of all methods are measured at it.
        base: a folder, a known name, or the hub name of a downloaded model.
        method: a key of `hiplora.training.METHODS`.
        task: a task of the demo world; give either this or `data`.
        data: a text file, or JSONL with `text`, `prompt` and `completion`, or `messages`.
        text: text on which inputs are observed, with `geometry="inputs"`; None for the one that the base brings along,
            else English that comes with Python.
        on_top: adapters whose updates are added to the base first, for continual tuning. The run's own is still one of
            the base: all together are their sum. HiP-LoRA gets what they leave of each layer's budget.
        probe: text that the base should still handle well, a file as for `data`; its loss measures forgetting.
        steps: optimizer steps.
        batch_size: examples per step.
        learning_rate: peak of AdamW's cosine schedule.
        warmup_steps: steps of linear warm-up.
        weight_decay: weight decay of AdamW.
        max_length: longest example in tokens, for `data`.
        seed: seed of the initial weights, the data and their order.
        device: `auto` is CUDA if available, else the CPU.
        threads: torch threads on the CPU.
        measure_every: steps between two measurements of the update.
        score_every: steps between two scores.
        save_every: steps between two checkpoints.
        evaluation_size: examples per skill for the final scores on a task; at most 50 during training.

    Raises:
        HiploraError: a value is out of range, or neither or both of `task` and `data` are given.
    """

    r: int = shared("r", help="Rank of the LoRA whose parameter count all methods match.")
    lora_alpha: float = shared("lora_alpha", help="Updates are scaled by alpha / r.")
    principal_rank: int = shared("principal_rank", help="Principal rank k; all methods are measured at it.", rule=COUNT)
    base: str = setting(dataclasses.MISSING, "Base model.", NAME)
    method: str = setting("hiplora", "Training method.", NAME)
    task: str | None = setting(None, "A task of the demo world.", NAME_OR_NONE)
    data: str | None = setting(None, "A text file, or JSONL with text, prompt/completion or messages.", NAME_OR_NONE)
    probe: str | None = setting(None, "Text the base should still handle well, to measure forgetting.", NAME_OR_NONE)
    text: str | None = setting(
        None,
        "Text on which HiP-LoRA observes inputs, with the geometry of the inputs.",
        NAME_OR_NONE,
        default_words="the base's own, or English",
    )
    on_top: tuple[str, ...] = setting((), "Adapters to train on top of.", _NAMES)
    steps: int = setting(300, "Optimizer steps.", COUNT)
    batch_size: int | None = setting(None, "Examples per step.", COUNT)
    learning_rate: float | None = setting(None, "Peak learning rate.", POSITIVE)
    warmup_steps: int | None = setting(None, "Steps of linear warm-up.", WHOLE, default_words="5 % of the steps")
    weight_decay: float = setting(0.0, "Weight decay of AdamW.", NOT_NEGATIVE)
    max_length: int = setting(256, "Longest example of a data file, in tokens.", COUNT)
    seed: int = setting(0, "Seed of the weights, the data and their order.", WHOLE)
    device: Literal["auto", "cpu", "cuda"] = setting("auto", "Where to train.", one_of("auto", "cpu", "cuda"))
    threads: int | None = setting(None, "Torch threads on the CPU.", _THREADS)
    measure_every: int | None = setting(
        None,
        "Steps between two measurements of the update.",
        COUNT,
        default_words="about 30 measurements for a task, 12 for a file",
    )
    score_every: int | None = setting(None, "Steps between two scores.", COUNT, default_words="about 12 scores")
    save_every: int | None = setting(
        None, "Steps between two checkpoints.", COUNT, default_words="about 12 checkpoints"
    )
    evaluation_size: int = setting(400, "Examples per skill for the final scores.", COUNT)

    def __post_init__(self) -> None:
        COUNT.require("steps", self.steps)
        at_goal = 0 if self.task else 1
        defaults = {name: values[at_goal] for name, values in BY_GOAL.items()} | {
            "warmup_steps": self.steps // 20,
            "measure_every": max(1, self.steps // 30) if self.task else max(5, self.steps // 12),
            "score_every": max(5, self.steps // 12),
            "save_every": max(5, self.steps // 12),
        }
        for name, value in defaults.items():
            if getattr(self, name) is None:
                object.__setattr__(self, name, value)
        if isinstance(self.on_top, list):
            object.__setattr__(self, "on_top", tuple(self.on_top))
        check_settings(self)
        self._check_goal()

    def _check_goal(self) -> None:
        from hiplora.demo.skills import TASKS

        find_method(self.method)
        if (self.task is None) == (self.data is None):
            raise HiploraError("Choose what to train on: either a task of the demo world or a data file.")
        if self.probe and not self.data:
            raise HiploraError("A probe file needs a data file: tasks of the demo world are scored on its skills.")
        if self.text and self.geometry != "inputs":
            raise HiploraError("A text belongs to geometry='inputs': choose that, or leave the text out.")
        if self.on_top and self.epsilon_pattern:
            raise HiploraError(
                "Budgets of their own (epsilon_pattern, --reallocate) and what earlier adapters leave (on_top) exclude "
                "each other: choose one."
            )
        if self.task and self.task not in TASKS:
            raise HiploraError(f"Unknown task '{self.task}': choose one of {', '.join(TASKS)}.")

    @property
    def on_inputs(self) -> bool:
        """Whether the method trains in the geometry of the inputs."""
        return self.geometry == "inputs" and find_method(self.method).has_core

    @property
    def goal(self) -> str:
        """The name of the task or of the data file."""
        return self.task or Path(str(self.data)).stem

    @property
    def title(self) -> str:
        """The method in words."""
        return find_method(self.method).title

    @property
    def default_name(self) -> str:
        """The default name of the run's folder."""
        return f"{self.goal}-{self.method}{'-inputs' * self.on_inputs}-s{self.seed}"

    def with_absolute_paths(self) -> "RunConfig":
        """Return a copy with absolute paths; known names and hub names stay unchanged."""
        from hiplora.files import user_path
        from hiplora.sources import canonical

        paths = {name: user_path(value) for name in ("data", "probe", "text") if (value := getattr(self, name))}
        found: dict[str, Any] = {name: str(path.resolve()) for name, path in paths.items() if path.exists()}
        on_top = tuple(str(path.resolve()) if (path := user_path(name)).exists() else name for name in self.on_top)
        return dataclasses.replace(self, base=canonical(self.base), on_top=on_top, **found)

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as a JSON object."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, fields: Any) -> "RunConfig":
        """Build a config from the result of `to_dict`.

        Raises:
            HiploraError: a field is unknown, missing or out of range.
        """
        return cls(**fields_of(cls, fields))


def fields_of(kind: type, fields: Any) -> dict[str, Any]:
    """Return the fields of a dataclass of settings as they were read.

    Raises:
        HiploraError: a field is unknown, or one without a default is missing.
    """
    if not isinstance(fields, dict):
        raise HiploraError("It does not hold a run's settings.")
    known = dataclasses.fields(kind)
    if unknown := set(fields) - {each.name for each in known}:
        raise HiploraError(f"This version does not know the run setting '{sorted(unknown)[0]}'.")
    for each in known:
        if each.name not in fields and each.default is each.default_factory is dataclasses.MISSING:
            raise HiploraError(f"The run's settings do not name a {each.name}.")
    return fields


def default_words(name: str) -> str:
    """Return the default of a setting in words; empty if it has none."""
    if name in BY_GOAL:
        return "{:g} for a task, {:g} for a file".format(*BY_GOAL[name])
    found = next(each for each in dataclasses.fields(RunConfig) if each.name == name)
    default = found.metadata.get("default_words", found.default)
    return "" if default is None else f"{default:g}" if isinstance(default, float) else str(default)
