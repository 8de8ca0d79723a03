"""The demo adapters: each task learned by each method, through PEFT and the one way of training in `fitting`."""

import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import torch

from hiplora.demo import METHODS, read_card
from hiplora.demo.fitting import Progress, Recipe, fit
from hiplora.demo.scoring import EVALUATION_SIZE, score
from hiplora.demo.skills import TASKS, find
from hiplora.errors import HiploraError

if TYPE_CHECKING:
    from peft import PeftConfig, PeftModel

RECIPE: Final = Recipe(steps=300, batch_size=64, learning_rate=2e-3, warmup_steps=15)
"""The same for every task and method."""

TARGET_MODULES: Final = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
SHIPPED_BASE: Final = "assets/demo/base"
"""What the adapters' configs name as their base: relative to the project, so that it holds on every machine."""


def method_config(method: str) -> "PeftConfig":
    """Return the PEFT config of a method, with trainable parameters matched within 5 % and the same `alpha / r`.

    Args:
        method: One of `hiplora.demo.METHODS`.

    Raises:
        HiploraError: The method is unknown.
    """
    if method == "lora":
        from peft import LoraConfig

        return LoraConfig(r=8, lora_alpha=16, target_modules=list(TARGET_MODULES), task_type="CAUSAL_LM")
    if method == "hiplora":
        from hiplora.tuner import HipLoraConfig

        return HipLoraConfig(
            r=7,
            lora_alpha=14,
            principal_rank=16,
            core="full",
            budget_mode="soft",
            budget_lambda=10.0,
            target_modules=list(TARGET_MODULES),
            task_type="CAUSAL_LM",
        )
    raise HiploraError(f"'{method}' is no method of the demo; choose one of {', '.join(METHODS)}.")


@torch.no_grad()
def relative_norm(model: "PeftModel") -> float:
    """Return the size of the active update, `||dW||_F / ||W0||_F` over all adapted layers together.

    Args:
        model: A PEFT model with one active adapter, not merged.
    """
    from peft.tuners.tuners_utils import BaseTunerLayer

    update = frozen = 0.0
    for module in model.modules():
        if isinstance(module, BaseTunerLayer):
            update += float(module.get_delta_weight(model.active_adapter).double().square().sum())
            frozen += float(module.get_base_layer().weight.double().square().sum())
    return float((update / frozen) ** 0.5)


def build_adapter(
    base: Path,
    out: Path,
    task: str,
    method: str,
    seed: int,
    recipe: Recipe = RECIPE,
    *,
    evaluation_size: int = EVALUATION_SIZE,
    progress: Progress,
) -> dict[str, Any]:
    """Train one adapter and save it as an ordinary PEFT folder with its card.

    Args:
        base: The folder of the demo base, with its card.
        out: The folder to write; made when missing.
        task: One of `hiplora.demo.TASKS`.
        method: One of `hiplora.demo.METHODS`.
        seed: Seeds the adapter's initial weights and its data.
        recipe: Steps, batch size, learning rate.
        evaluation_size: Examples per skill for the card's scores, at most; as the base's card has it.
        progress: Told after every step.

    Returns:
        The card, as written to `card.json`. `retention` is the mean over skills of the score divided by the base's;
        `task_score` of an edit is its efficacy, and `locality` the score on the facts that it should not touch.

    Raises:
        HiploraError: Task or method is unknown.
    """
    from peft import get_peft_model
    from transformers import AutoModelForCausalLM, AutoTokenizer, set_seed

    if task not in TASKS:
        raise HiploraError(f"'{task}' is no task of the demo; choose one of {', '.join(TASKS)}.")
    started = time.perf_counter()
    tokenizer = AutoTokenizer.from_pretrained(base, local_files_only=True)
    model = AutoModelForCausalLM.from_pretrained(base, local_files_only=True)
    set_seed(seed)
    model = get_peft_model(model, method_config(method))
    fit(model, tokenizer, {find(task): 1.0}, recipe, seed, f"{task}-{method}", progress)
    after = score(model, tokenizer, size=evaluation_size)
    config = model.peft_config[model.active_adapter]
    config.base_model_name_or_path = SHIPPED_BASE
    # Left to itself, PEFT asks the hub whether the base's vocabulary was resized.
    model.save_pretrained(out, save_embedding_layers=False)
    (out / "README.md").unlink(missing_ok=True)
    card = {
        "task": task,
        "method": method,
        "seed": seed,
        "steps": recipe.steps,
        "batch_size": recipe.batch_size,
        "learning_rate": recipe.learning_rate,
        "trainable_parameters": sum(p.numel() for p in model.parameters() if p.requires_grad),
        "relative_norm": relative_norm(model),
        "task_score": score(model, tokenizer, [task], evaluation_size)[task],
        "skills": after,
        "retention": _mean_ratio(after, read_card(base)["skills"]),
        "seconds": round(time.perf_counter() - started),
    }
    if task == "edit":
        card["locality"] = after["fact"]
    (out / "card.json").write_text(json.dumps(card, indent=2) + "\n", encoding="utf-8")
    return card


def _mean_ratio(after: dict[str, float], before: dict[str, float]) -> float:
    # A barely trained base may score 0 on a skill, which then cannot be lost.
    return sum(after[name] / before[name] if before[name] else 1.0 for name in before) / len(before)
