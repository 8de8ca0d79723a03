"""The configuration of a HiP-LoRA adapter."""

from dataclasses import dataclass, field
from enum import Enum
from typing import Any, Literal

from peft import PeftConfig

from hiplora.errors import HiploraError
from hiplora.settings import FRACTION, check_settings, one_of, pattern_of, setting, shared


class HipPeftType(str, Enum):  # noqa: UP042 - PEFT and transformers compare and print it as they do their own
    """The method's name in PEFT, whose own enum cannot be extended."""

    HIPLORA = "HIPLORA"


@dataclass
class HipLoraConfig(PeftConfig):
    """Configuration of HiP-LoRA (Chen and Tan, arXiv 2604.17751), for `peft.get_peft_model`.

    `r`, `lora_alpha`, `principal_rank`, `geometry`, `core`, `budget_mode`, `budget_lambda`, `epsilon`,
    `epsilon_pattern` and `budget_power` are those of `hiplora.settings.HipLoraSettings`, described there.

    With `geometry="inputs"` call `hiplora.tuner.observe_inputs` on the model before `get_peft_model`.

    The penalty of the soft mode is added to the loss that the model returns, in training mode only: the loss of an
    evaluation is the bare task loss. A loss computed outside the model (a custom loss function, label smoothing) misses
    it, with a warning; add `budget_penalty(model)` there, or use the hard mode.

    Attributes:
        lora_dropout: dropout on the input of the whole update, in training (our choice, as in LoRA).
        rank_pattern: module name or regular expression -> r.
        alpha_pattern: the same for lora_alpha.
        principal_rank_pattern: the same for principal_rank.
        target_modules: names, a regular expression, or `all-linear`; by default those of LoRA.
        exclude_modules: names or a regular expression to leave out.
        layers_to_transform: indices of the layers to adapt.
        layers_pattern: name of the list of layers, if it is not a common one.
        modules_to_save: modules trained in full and saved with the adapter.
        bias: only `none`.
        fan_in_fan_out: whether the targets store their weight as (in, out), as Conv1D does; set automatically.
        init_weights: `True`: B and the core start at zero, so the model starts unchanged; `False`: at random.
        save_factors: whether the singular vectors are saved too. Without them files are smaller, and loading takes them
            from the cache, or computes them again, and rejects any that differ in a single bit. The geometry of the
            inputs needs them saved.
        base_weights: filled in when the adapter is made, see `hiplora.adapters.hiplora_format`; leave it empty.

    Raises:
        HiploraError: a value is of the wrong type or out of range.
    """

    r: int = shared("r")
    lora_alpha: float = shared("lora_alpha")
    lora_dropout: float = setting(0.0, "Dropout on the update's input (our choice).", FRACTION)
    principal_rank: int | float = shared("principal_rank")
    geometry: Literal["weights", "inputs"] = shared("geometry")
    core: Literal["full", "diagonal"] = shared("core")
    budget_mode: Literal["soft", "hard"] = shared("budget_mode")
    budget_lambda: float = shared("budget_lambda")
    epsilon: float = shared("epsilon")
    budget_power: float = shared("budget_power")
    rank_pattern: dict[str, int] = field(default_factory=dict, metadata=pattern_of("r", "as in PEFT"))
    alpha_pattern: dict[str, float] = field(default_factory=dict, metadata=pattern_of("lora_alpha", "as in PEFT"))
    principal_rank_pattern: dict[str, int | float] = field(
        default_factory=dict, metadata=pattern_of("principal_rank", "our choice")
    )
    epsilon_pattern: dict[str, float] = field(default_factory=dict, metadata=pattern_of("epsilon", "our choice"))
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
        default=None, metadata={"help": "Modules trained in full and saved with the adapter (as in PEFT)."}
    )
    bias: Literal["none"] = setting("none", "Only 'none': biases stay frozen.", one_of("none"))
    fan_in_fan_out: bool = field(
        default=False, metadata={"help": "Weights stored as (in, out), as by Conv1D; set automatically."}
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
        # A config written by hand may hold null for an empty pattern.
        for name in ("rank_pattern", "alpha_pattern", "principal_rank_pattern", "epsilon_pattern", "base_weights"):
            setattr(self, name, getattr(self, name) or {})
        if not isinstance(self.base_weights, dict):
            raise HiploraError(f"base_weights must be a dictionary, got a {type(self.base_weights).__name__}.")
        check_settings(self)
        if isinstance(self.target_modules, str) and self.layers_to_transform is not None:
            raise HiploraError(
                f"layers_to_transform={self.layers_to_transform!r} cannot be used with target_modules as one string, "
                f"got {self.target_modules!r}: pass a list of names."
            )
        if self.geometry == "inputs" and not self.save_factors:
            raise HiploraError(
                "save_factors=False cannot be used with geometry='inputs': the basis cannot be computed again from the "
                "base alone."
            )
        if self.layers_pattern and self.layers_to_transform is None:
            raise HiploraError(f"layers_pattern={self.layers_pattern!r} also needs layers_to_transform.")
