"""What is known of PEFT's tuners: which are read through PEFT, and why the others are not. Nothing is imported."""

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True)
class Tuner:
    """A tuner whose update of one weight depends on that weight and its own tensors only.

    Attributes:
        title: usual name of the method.
        prefix: how the names of its tensors start, as in PEFT's `PEFT_TYPE_TO_PREFIX_MAPPING`.
        shared: names of the tensors that all its modules use. Of two, the last axis of the first and the first axis of
            the second are the largest input and output of any module.
    """

    title: str
    prefix: str
    shared: tuple[str, ...] = ()


_PROMPT: Final = "it learns a prompt and changes no weight, so there is nothing to measure"
_TOGETHER: Final = (
    "its update of one weight depends on all the others: merge it with PEFT (`merge_and_unload`), save the model, and "
    "pass that in place of the adapter"
)
_INPUT: Final = "what it adds depends on the input, so it is not an update of the weights"
_SMALL: Final = "it changes norms and biases only, and no matrix"

TUNERS: Final[dict[str, Tuner]] = {
    "ADALORA": Tuner("AdaLoRA", "lora_"),
    "BOFT": Tuner("BOFT", "boft_"),
    "C3A": Tuner("C3A", "c3a_"),
    "DEFT": Tuner("DEFT", "deft_"),
    "DELORA": Tuner("DeLoRA", "delora_"),
    "FOURIERFT": Tuner("FourierFT", "fourierft_"),
    "GLORA": Tuner("GLoRA", "glora_"),
    "GRALORA": Tuner("GraLoRA", "gralora_"),
    "HIRA": Tuner("HiRA", "hira_"),
    "HRA": Tuner("HRA", "hra_"),
    "IA3": Tuner("(IA)³", "ia3_"),
    "LOHA": Tuner("LoHa", "hada_"),
    "LOKR": Tuner("LoKr", "lokr_"),
    "MISS": Tuner("MiSS", "miss_"),
    "OFT": Tuner("OFT", "oft_"),
    "OSF": Tuner("OSF", "osf_"),
    "PEANUT": Tuner("PEANuT", "peanut_"),
    "PSOFT": Tuner("PSOFT", "psoft_"),
    "PVERA": Tuner("PVeRA", "pvera_lambda_", ("pvera_A", "pvera_B")),
    "RANDLORA": Tuner("RandLoRA", "randlora_", ("randlora_A", "randlora_B")),
    "ROAD": Tuner("RoAd", "road_"),
    "SHIRA": Tuner("SHiRA", "shira_"),
    "SUPERTUNING": Tuner("SuperTuning", "supertuning_"),
    "VBLORA": Tuner("VB-LoRA", "vblora_", ("vblora_vector_bank",)),
    "VERA": Tuner("VeRA", "vera_lambda_", ("vera_A", "vera_B")),
    "WAVEFT": Tuner("WaveFT", "waveft_"),
}
"""Tuners by `peft_type`; a test merges an adapter of each with PEFT and compares."""

REFUSED: Final[dict[str, str]] = {
    **dict.fromkeys(
        [
            "ADAPTION_PROMPT", "CARTRIDGE", "CPT", "MULTITASK_PROMPT_TUNING", "P_TUNING", "PREFIX_TUNING",
            "PROMPT_TUNING",
        ],
        _PROMPT,
    ),
    **dict.fromkeys(["ADAMSS", "FROD", "TINYLORA", "UNILORA"], _TOGETHER),
    **dict.fromkeys(["LILY", "POLY", "SHADOW", "XLORA"], _INPUT),
    **dict.fromkeys(["BEFT", "LN_TUNING"], _SMALL),
}  # fmt: skip
"""Why the other tuners are not read, by `peft_type`, as a clause."""
