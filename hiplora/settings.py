"""The settings of HiP-LoRA, each with its default, help and check in this one place. Imports nothing heavy.

`HipLoraConfig`, `RunConfig`, the command line and the app's form take all three from the fields of `HipLoraSettings`.
"""

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from hiplora.errors import HiploraError

DEFAULT_TOKENS = 8192
"""Tokens of a text on which the inputs of a base are observed."""
LOSS_TOKENS = 2048
"""Tokens of each text by whose loss edits are scored: an ablation reads both seventeen times."""
MERGE_WAYS = ("sum", "core", "ties", "dare", "magnitude", "knots", "core-space", "tsv", "iso-c", "orthogonal")
"""Keys of the ways to merge: those of `hiplora.merging.WAYS`, for the command line, which starts without numpy."""
# Sums of squares of anything larger overflow float32.
_LARGE = 1e38


@dataclass(frozen=True)
class Rule:
    """The values that a setting may take.

    Attributes:
        words: completes "must be ...".
        kind: the accepted types; typed text is read as the first.
        fits: whether a value of that type is in range.
        choices: all values, where there are few.
    """

    words: str
    kind: tuple[type, ...]
    fits: Callable[[Any], bool] = lambda value: True
    choices: tuple[str, ...] = ()

    def accepts(self, value: Any) -> bool:
        """Return whether a value is of the right type and in range."""
        # True and False are whole numbers to Python.
        return not isinstance(value, bool) and isinstance(value, self.kind) and self.fits(value)

    def require(self, name: str, value: Any) -> None:
        """Raise unless a value fits.

        Raises:
            HiploraError: the value does not fit; the sentence begins with `name`.
        """
        if not self.accepts(value):
            raise HiploraError(f"{name} must be {self.words}, got {value!r}.")


COUNT = Rule("a whole number of at least 1", (int,), lambda value: 1 <= value < 2**31)
WHOLE = Rule("a whole number of at least 0", (int,), lambda value: 0 <= value < 2**32)
POSITIVE = Rule("a positive number", (float, int), lambda value: 0 < value < _LARGE)
NOT_NEGATIVE = Rule("0 or a positive number", (float, int), lambda value: 0 <= value < _LARGE)
NUMBER = Rule("a finite number", (float, int), lambda value: abs(value) < _LARGE)
DENSITY = Rule("above 0 and at most 1", (float, int), lambda value: 0 < value <= 1)
FRACTION = Rule("at least 0 and below 1", (float, int), lambda value: 0 <= value < 1)
_RANK_OR_SHARE = Rule(
    "a whole number of at least 1, or a share of spectral energy between 0 and 1",
    (int, float),
    lambda value: COUNT.fits(value) if isinstance(value, int) else 0 < value < 1,
)
# The square of epsilon must be a normal float32.
LEAST_EPSILON = 1e-9
_EPSILON = Rule("a positive number, at least 1e-9", (float, int), lambda value: LEAST_EPSILON <= value < _LARGE)


def one_of(*choices: str) -> Rule:
    """Return the rule of a setting with few values."""
    return Rule(f"one of {', '.join(choices)}", (str,), lambda value: value in choices, choices)


def setting(default: Any, help: str, rule: Rule, **more: Any) -> Any:
    """Return a dataclass field with its help and its rule.

    Args:
        default: its default.
        help: one phrase for the command line, the form and `HipLoraConfig`.
        rule: the values it may take.
        more: further metadata: `label` (what the form calls it; without one the form does not show it), `needs`
            (`{other setting: value}` for which it matters) and `pattern` (the setting with its exceptions by module).
    """
    return field(default=default, metadata={"help": help, "rule": rule, **more})


def check_settings(settings: Any) -> None:
    """Check every field of a dataclass that has a rule.

    Raises:
        HiploraError: a value is of the wrong type or out of range.
    """
    for each in dataclasses.fields(settings):
        if rule := each.metadata.get("rule"):
            value = getattr(settings, each.name)
            if each.default_factory is not dict:
                rule.require(each.name, value)
                continue
            if not isinstance(value, Mapping):
                raise HiploraError(f"{each.name} must be a dictionary, got {value!r}.")
            for key, entry in value.items():
                rule.require(f"{each.name}[{key!r}]", entry)


@dataclass(frozen=True, kw_only=True)
class HipLoraSettings:
    """The settings of HiP-LoRA (Chen and Tan, arXiv 2604.17751), for all modules or, patterns applied, for one.

    "Paper" marks what the paper states, "our choice" what it leaves open; `METHOD.md` in the package has the formulas.

    Attributes:
        r: rank of the residual channel (paper: a residual low-rank channel; the number is our choice).
        lora_alpha: the residual channel is scaled by `lora_alpha / r` (our choice, as in LoRA).
        principal_rank: k, how many leading singular directions form the principal channel; a float in (0, 1) means the
            smallest k with that share of `||W0||_F^2` (paper: a dominant singular subspace; the number is our choice).
        geometry: `weights` takes the leading singular directions of the weight (paper); `inputs` those of what it does
            on observed inputs (our extension, METHOD.md section 8).
        core: `full` trains a k x k core, `diagonal` a relative gain per singular value (our choice).
        budget_mode: `soft` adds `budget_lambda * mean cost` to the training loss (paper: a continuous balance); `hard`
            scales the core down so that tightness never exceeds 1 (our choice).
        budget_lambda: weight of the cost in the soft mode, dimensionless (our choice).
        epsilon: the budget: the share of the layer's weighted principal spectrum that training may move (our choice).
        epsilon_pattern: module name or regular expression -> epsilon, where it differs (our choice).
        budget_power: p of the weights `(s_i / s_1)^p` (paper: singular-value-weighted; the number is our choice).

    Raises:
        HiploraError: a value is of the wrong type or out of range.
    """

    r: int = setting(
        8, "Rank of the residual channel (paper; the number is our choice).", COUNT, pattern="rank_pattern"
    )
    lora_alpha: float = setting(
        16, "Residual channel scaled by lora_alpha / r (our choice).", POSITIVE, pattern="alpha_pattern"
    )
    principal_rank: int | float = setting(
        16,
        "Rank k, or a share of spectral energy in (0, 1) (paper: dominant subspace; the number is our choice).",
        _RANK_OR_SHARE,
        pattern="principal_rank_pattern",
    )
    geometry: Literal["weights", "inputs"] = setting(
        "weights",
        "Principal directions of the weights (paper), or of what they do on observed inputs (our extension).",
        one_of("weights", "inputs"),
        label="HiP-LoRA geometry",
    )
    core: Literal["full", "diagonal"] = setting(
        "full",
        "Full: a k x k core; diagonal: one gain per singular value (our choice).",
        one_of("full", "diagonal"),
        label="HiP-LoRA core matrix",
    )
    budget_mode: Literal["soft", "hard"] = setting(
        "soft",
        "Soft: a penalty on the loss (paper); hard: a limit by construction (our choice).",
        one_of("soft", "hard"),
        label="HiP-LoRA budget",
    )
    budget_lambda: float = setting(
        10.0,
        "Weight of the penalty, lambda x mean cost, in soft mode (our choice).",
        NOT_NEGATIVE,
        label="Penalty weight λ",
        needs={"budget_mode": "soft"},
    )
    epsilon: float = setting(
        0.05,
        "Share of the weighted principal spectrum that may move (our choice).",
        _EPSILON,
        pattern="epsilon_pattern",
    )
    epsilon_pattern: dict[str, float] = field(
        default_factory=dict,
        metadata={"help": "Module name or regular expression -> epsilon (our choice).", "rule": _EPSILON},
    )
    budget_power: float = setting(
        1.0, "Exponent p of (s_i / s_1)^p (paper: singular-value-weighted; the number is our choice).", NOT_NEGATIVE
    )

    def __post_init__(self) -> None:
        check_settings(self)

    @property
    def scaling(self) -> float:
        """`lora_alpha / r`."""
        return self.lora_alpha / self.r


_FIELDS = {each.name: each for each in dataclasses.fields(HipLoraSettings)}


def shared(name: str, **changes: Any) -> Any:
    """Return a field of `HipLoraSettings` for another dataclass: same default, help and rule, but for `changes`.

    Args:
        name: of the setting.
        changes: entries of its metadata that differ, such as `rule`.
    """
    return setting(_FIELDS[name].default, **{**_FIELDS[name].metadata, **changes})


def pattern_of(name: str, whose: str) -> dict[str, Any]:
    """Return the metadata of a `{module: value}` field for a field of `HipLoraSettings`.

    Args:
        name: of the setting.
        whose: the source of the choice, for the help.
    """
    return {"help": f"Module name or regular expression -> {name} ({whose}).", "rule": _FIELDS[name].metadata["rule"]}
