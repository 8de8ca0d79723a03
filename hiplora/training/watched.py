"""The settings of a run that is trained by another script, and only watched here."""

import dataclasses
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

from hiplora.settings import COUNT, NOT_NEGATIVE, check_settings, one_of, setting, shared
from hiplora.training.config import NAME, NAME_OR_NONE, fields_of


@dataclass(frozen=True, kw_only=True)
class WatchedConfig:
    """A run that `hiplora.SpectralRecorder` writes while another script trains. It cannot be resumed here.

    Attributes:
        base: a folder, a known name, or the hub name of a downloaded model.
        method: how the adapter is made, in words, such as `LoRA` or `rsLoRA`.
        steps: optimizer steps that the script is going to do.
        principal_rank: k, at which the update is measured.
        epsilon: budget of modules for which the adapter states none.
        budget_power: `p` of the budget's weights.
        measure_every: steps between two measurements.
        geometry: `inputs` where the principal share is measured on the base's inputs too.
        text: whose inputs these are; None for the calibration of the base.

    Raises:
        HiploraError: a value is out of range.
    """

    task: ClassVar[None] = None
    goal: ClassVar[str] = "your own script"

    base: str = setting(dataclasses.MISSING, "Base model.", NAME)
    method: str = setting(dataclasses.MISSING, "How the adapter is made.", NAME)
    steps: int = setting(dataclasses.MISSING, "Optimizer steps of the script.", COUNT)
    principal_rank: int = shared("principal_rank", help="Principal rank k of the measurements.", rule=COUNT)
    epsilon: float = shared("epsilon")
    budget_power: float = setting(1.0, "p of (s_i / s_1)^p.", NOT_NEGATIVE)
    measure_every: int = setting(50, "Steps between two measurements.", COUNT)
    geometry: Literal["weights", "inputs"] = setting(
        "weights", "Whether it is measured on inputs too.", one_of("weights", "inputs")
    )
    text: str | None = setting(None, "Text of the inputs.", NAME_OR_NONE)

    def __post_init__(self) -> None:
        check_settings(self)

    @property
    def title(self) -> str:
        """The method in words."""
        return self.method

    @property
    def default_name(self) -> str:
        """The default name of the run's folder."""
        return re.sub(r"[^\w.]+", "-", f"{Path(self.base).name}-{self.method}").strip("-.").lower() or "run"

    def with_absolute_paths(self) -> "WatchedConfig":
        """Return a copy with absolute paths; known names and hub names stay unchanged."""
        from hiplora.files import user_path
        from hiplora.sources import canonical

        text = str(user_path(self.text).resolve()) if self.text else None
        return dataclasses.replace(self, base=canonical(self.base), text=text)

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as a JSON object, with `watched`, which says that they are of this kind."""
        return {"watched": True, **dataclasses.asdict(self)}

    @classmethod
    def from_dict(cls, fields: dict[str, Any]) -> "WatchedConfig":
        """Build the settings from the result of `to_dict`.

        Raises:
            HiploraError: a field is unknown, missing or out of range.
        """
        return cls(**fields_of(cls, {name: value for name, value in fields.items() if name != "watched"}))
