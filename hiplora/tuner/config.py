"""The configuration of a HiP-LoRA adapter."""

from dataclasses import dataclass, field
from enum import Enum
from typing import Any, Literal

from peft import PeftConfig

from hiplora.errors import HiploraError


class HipPeftType(str, Enum):  # noqa: UP042 - PEFT and transformers compare and print it as they do their own
    """The name that PEFT knows the method by; PEFT's own enum cannot be extended."""

    HIPLORA = "HIPLORA"


@dataclass
class HipLoraConfig(PeftConfig):
    """Configuration of HiP-LoRA (Chen and Tan, arXiv 2604.17751), for `peft.get_peft_model`.

    "Paper" marks what the paper states, "our choice" what it leaves open; `METHOD.md` in the package has the formulas.

    The penalty of the soft mode is added to the loss that the model returns, in training mode only: the loss of an
    evaluation is the bare task loss. A loss computed outside the model (a custom loss function, label smoothing) misses
    it, with a warning; add `budget_penalty(model)` there, or use the hard mode.

    Attributes:
        r: rank of the residual channel (paper: a residual low-rank channel; our choice: 8).
        lora_alpha: the residual channel is scaled by `lora_alpha / r` (our choice, as in LoRA).
        lora_dropout: dropout on the input of the whole update, in training (our choice, as in LoRA).
        principal_rank: k, how many leading singular directions form the principal channel; a float in (0, 1) means the
            smallest k with that share of `||W0||_F^2` (paper: a dominant singular subspace; our choice: 16).
        core: `full` trains a k x k core, `diagonal` a relative gain per singular value (our choice).
        budget_mode: `soft` adds `budget_lambda * mean cost` to the training loss (paper: a continuous balance); `hard`
            scales the core down so that tightness never exceeds 1 (our choice).
        budget_lambda: weight of the cost in the soft mode, dimensionless (our choice: 10).
        epsilon: the budget: the share of the layer's weighted principal spectrum that training may move (our choice).
        budget_power: p of the weights `(s_i / s_1)^p` (paper: singular-value-weighted; our choice: 1).
        rank_pattern: module name or regular expression -> r.
        alpha_pattern: the same for lora_alpha.
        principal_rank_pattern: the same for principal_rank.
        epsilon_pattern: the same for epsilon.
        target_modules: names, a regular expression, or `all-linear`; by default what LoRA adapts.
        exclude_modules: names or a regular expression to leave out.
        layers_to_transform: indices of the layers to adapt.
        layers_pattern: name of the list of layers, where it is not a common one.
        modules_to_save: modules trained whole and saved beside the adapter.
        bias: only `none`.
        fan_in_fan_out: whether the targets store their weight as (in, out), as Conv1D does; set from what is found.
        init_weights: `True`: B and the core start at zero, so the model starts unchanged; `False`: at random.
        save_factors: whether the singular vectors are saved too. Without them files are smaller, and loading takes them
            from the cache, or computes them again, and refuses any that differ in a single bit.
        base_weights: filled in when the adapter is made, see `hiplora.adapters.hiplora_format`; leave it empty.

    Raises:
        HiploraError: a value is out of range.
    """

    r: int = field(default=8, metadata={"help": "Rank of the residual channel (paper; 8 is our choice)."})
    lora_alpha: float = field(default=16, metadata={"help": "Residual channel scaled by lora_alpha / r (our choice)."})
    lora_dropout: float = field(default=0.0, metadata={"help": "Dropout on the update's input (our choice)."})
    principal_rank: int | float = field(
        default=16,
        metadata={"help": "k, or a share of spectral energy in (0, 1) (paper: dominant subspace; 16 is our choice)."},
    )
    core: Literal["full", "diagonal"] = field(
        default="full", metadata={"help": "k x k core, or one gain per singular value (our choice)."}
    )
    budget_mode: Literal["soft", "hard"] = field(
        default="soft", metadata={"help": "Penalty on the loss (paper), or a limit by construction (our choice)."}
    )
    budget_lambda: float = field(default=10.0, metadata={"help": "Weight of the penalty in soft mode (our choice)."})
    epsilon: float = field(
        default=0.05, metadata={"help": "Share of the weighted principal spectrum that may move (our choice)."}
    )
    budget_power: float = field(
        default=1.0, metadata={"help": "p of (s_i / s_1)^p (paper: singular-value-weighted; p = 1 is our choice)."}
    )
    rank_pattern: dict[str, int] = field(
        default_factory=dict, metadata={"help": "Module name or regular expression -> r (as in PEFT)."}
    )
    alpha_pattern: dict[str, float] = field(
        default_factory=dict, metadata={"help": "Module name or regular expression -> lora_alpha (as in PEFT)."}
    )
    principal_rank_pattern: dict[str, int | float] = field(
        default_factory=dict, metadata={"help": "Module name or regular expression -> principal_rank (our choice)."}
    )
    epsilon_pattern: dict[str, float] = field(
        default_factory=dict, metadata={"help": "Module name or regular expression -> epsilon (our choice)."}
    )
    target_modules: list[str] | set[str] | str | None = field(
        default=None, metadata={"help": "Names, a regular expression or 'all-linear' (as in PEFT)."}
    )
    exclude_modules: list[str] | set[str] | str | None = field(
        default=None, metadata={"help": "Names or a regular expression to leave out (as in PEFT)."}
    )
    layers_to_transform: list[int] | int | None = field(
        default=None, metadata={"help": "Indices of the layers to adapt (as in PEFT)."}
    )
    layers_pattern: list[str] | str | None = field(
        default=None, metadata={"help": "Name of the list of layers (as in PEFT)."}
    )
    modules_to_save: list[str] | None = field(
        default=None, metadata={"help": "Modules trained whole and saved beside the adapter (as in PEFT)."}
    )
    bias: Literal["none"] = field(default="none", metadata={"help": "Only 'none': biases stay frozen."})
    fan_in_fan_out: bool = field(
        default=False, metadata={"help": "Weights stored as (in, out), as by Conv1D; set from what is found."}
    )
    init_weights: bool = field(
        default=True, metadata={"help": "B and the core start at zero (paper: no change at the start), else at random."}
    )
    save_factors: bool = field(
        default=True, metadata={"help": "Save the singular vectors, or take them from the cache (our choice)."}
    )
    base_weights: dict[str, dict[str, Any]] = field(
        default_factory=dict, metadata={"help": "Filled in when the adapter is made; leave it empty."}
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        self.peft_type = HipPeftType.HIPLORA
        for name in ("target_modules", "exclude_modules"):
            if isinstance(value := getattr(self, name), list):
                setattr(self, name, set(value))
        for name in ("rank_pattern", "alpha_pattern", "principal_rank_pattern", "epsilon_pattern", "base_weights"):
            if not isinstance(value := getattr(self, name) or {}, dict):
                raise HiploraError(f"{name} must be a dictionary, got a {type(value).__name__}.")
            setattr(self, name, value)
        self._check_numbers()
        for name, choices in (("core", ("full", "diagonal")), ("budget_mode", ("soft", "hard")), ("bias", ("none",))):
            if getattr(self, name) not in choices:
                raise HiploraError(f"{name} must be {' or '.join(map(repr, choices))}, got {getattr(self, name)!r}.")
        if isinstance(self.target_modules, str) and self.layers_to_transform is not None:
            raise HiploraError(
                f"layers_to_transform={self.layers_to_transform!r} cannot be used with target_modules as one string, "
                f"got {self.target_modules!r}: pass a list of names."
            )
        if self.layers_pattern and self.layers_to_transform is None:
            raise HiploraError(f"layers_pattern={self.layers_pattern!r} needs layers_to_transform beside it.")

    def _check_numbers(self) -> None:
        def check(name: str, pattern: str, ok: Any, rule: str) -> None:
            values = {name: getattr(self, name)}
            if pattern:
                values |= {f"{pattern}[{key!r}]": value for key, value in getattr(self, pattern).items()}
            for label, value in values.items():
                if isinstance(value, bool) or not isinstance(value, int | float) or not ok(value):
                    raise HiploraError(f"{label} must be {rule}, got {value!r}.")

        check("r", "rank_pattern", lambda v: isinstance(v, int) and v >= 1, "a positive whole number")
        check("lora_alpha", "alpha_pattern", lambda v: 0 < v < float("inf"), "a positive number")
        check("lora_dropout", "", lambda v: 0 <= v < 1, "at least 0 and below 1")
        check(
            "principal_rank",
            "principal_rank_pattern",
            lambda v: v >= 1 if isinstance(v, int) else 0 < v < 1,
            "a positive whole number, or a share of spectral energy between 0 and 1",
        )
        check("budget_lambda", "", lambda v: 0 <= v < float("inf"), "0 or a positive number")
        # Its square must be a normal float32.
        check("epsilon", "epsilon_pattern", lambda v: 1e-9 <= v < float("inf"), "a positive number, at least 1e-9")
        check("budget_power", "", lambda v: 0 <= v < float("inf"), "0 or a positive number")
