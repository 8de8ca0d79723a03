"""Adapters of PEFT's tuners, as small as they come, for the comparison with PEFT's merged weights."""

from typing import Any, Final

import peft

TUNERS: Final[dict[str, tuple[str, dict[str, Any]]]] = {
    "LoRA": ("LORA", {"r": 4, "lora_alpha": 6}),
    "rsLoRA": ("LORA", {"r": 4, "use_rslora": True}),
    "DoRA": ("LORA", {"r": 4, "use_dora": True}),
    "PiSSA": ("LORA", {"r": 4, "init_lora_weights": "pissa"}),
    "OLoRA": ("LORA", {"r": 4, "init_lora_weights": "olora"}),
    "PiSSA DoRA": ("LORA", {"r": 4, "init_lora_weights": "pissa", "use_dora": True}),
    "MiCA": ("LORA", {"r": 4, "init_lora_weights": "mica"}),
    "KaSA": ("LORA", {"r": 4, "kasa_config": peft.KasaConfig()}),
    "BD-LoRA": ("LORA", {"r": 4, "use_bdlora": peft.BdLoraConfig(target_modules_bd_b=[""], nblocks=2)}),
    "AdaLoRA": ("ADALORA", {"init_r": 4, "target_r": 2, "total_step": 10}),
    "BOFT": ("BOFT", {"boft_block_size": 4}),
    "C3A": ("C3A", {"block_size": 4}),
    "DEFT": ("DEFT", {"r": 4}),
    "DeLoRA": ("DELORA", {"r": 4}),
    "FourierFT": ("FOURIERFT", {"n_frequency": 40}),
    "GLoRA": ("GLORA", {"r": 4}),
    "GraLoRA": ("GRALORA", {"r": 4, "gralora_k": 2}),
    "HiRA": ("HIRA", {"r": 4}),
    "HRA": ("HRA", {"r": 4}),
    "(IA)³": ("IA3", {}),
    "LoHa": ("LOHA", {"r": 4, "alpha": 6}),
    "LoKr": ("LOKR", {"r": 2, "alpha": 6}),
    "MiSS": ("MISS", {"r": 4}),
    "OFT": ("OFT", {"r": 0, "oft_block_size": 4}),
    "OSF": ("OSF", {"effective_rank": 6}),
    "PEANuT": ("PEANUT", {"r": 4}),
    "PSOFT": ("PSOFT", {"r": 4}),
    "PVeRA": ("PVERA", {"r": 4}),
    "RandLoRA": ("RANDLORA", {"r": 4}),
    "RoAd": ("ROAD", {"group_size": 4}),
    "SHiRA": ("SHIRA", {"r": 2}),
    "SuperTuning": ("SUPERTUNING", {}),
    "VB-LoRA": ("VBLORA", {"r": 2, "vector_length": 4, "num_vectors": 12}),
    "VeRA": ("VERA", {"r": 4}),
    "WaveFT": ("WAVEFT", {"n_frequency": 40}),
}
"""Name in the table -> PEFT's type, and settings."""


def config_of(tuner: str, targets: list[str], **more: Any) -> peft.PeftConfig:
    """Return a config of a tuner for some modules."""
    kind, settings = TUNERS[tuner]
    settings = settings | {"target_modules": targets} | more
    if kind == "IA3":
        settings.setdefault("feedforward_modules", targets[-1:])
    return peft.PEFT_TYPE_TO_CONFIG_MAPPING[peft.PeftType(kind)](**settings)
