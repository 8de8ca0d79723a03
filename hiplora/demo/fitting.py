"""How the demo base is trained from nothing: by an unchanged `transformers.Trainer`."""

import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from transformers import PrinterCallback, Trainer, TrainerCallback, TrainingArguments

from hiplora.demo.data import AnswerCollator, SkillDataset

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedTokenizerFast

    from hiplora.demo.skills import Skill

Progress = Callable[[str, float], None]
"""Called with what is being done and the share of it that is done, from 0 to 1."""


@dataclass(frozen=True)
class Recipe:
    """How long and how fast to train.

    Attributes:
        steps: Optimiser steps.
        batch_size: Examples per step.
        learning_rate: Peak learning rate of AdamW.
        warmup_steps: Steps of linear warm-up.
        schedule: Name of the schedule after warm-up, as transformers calls it.
        weight_decay: AdamW's decoupled weight decay.
    """

    steps: int
    batch_size: int
    learning_rate: float
    warmup_steps: int = 0
    schedule: str = "cosine"
    weight_decay: float = 0.0


class _Report(TrainerCallback):
    def __init__(self, what: str, progress: Progress) -> None:
        self._what = what
        self._progress = progress

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self._progress(self._what, state.global_step / state.max_steps)


def fit(
    model: "torch.nn.Module",
    tokenizer: "PreTrainedTokenizerFast",
    weights: "dict[Skill, float]",
    recipe: Recipe,
    seed: int,
    what: str,
    progress: Progress,
) -> list[float]:
    """Train a model in place on the CPU, in float32.

    Args:
        model: The model; what requires a gradient is trained.
        tokenizer: The demo tokenizer.
        weights: How often each skill is drawn, relative to the others.
        recipe: Steps, batch size, learning rate.
        seed: Seeds the data and their order.
        what: Names this training in `progress`.
        progress: Told after every step.

    Returns:
        The logged training losses, about a hundred of them, in order.
    """
    with tempfile.TemporaryDirectory() as scratch:
        trainer = Trainer(
            model=model,
            args=TrainingArguments(
                output_dir=scratch,
                max_steps=recipe.steps,
                per_device_train_batch_size=recipe.batch_size,
                learning_rate=recipe.learning_rate,
                warmup_steps=recipe.warmup_steps,
                lr_scheduler_type=recipe.schedule,
                weight_decay=recipe.weight_decay,
                seed=seed,
                use_cpu=True,
                dataloader_pin_memory=False,
                remove_unused_columns=False,
                logging_steps=max(1, recipe.steps // 100),
                save_strategy="no",
                report_to="none",
                disable_tqdm=True,
            ),
            train_dataset=SkillDataset(weights, recipe.steps * recipe.batch_size, seed),
            data_collator=AnswerCollator(tokenizer),
            callbacks=[_Report(what, progress)],
        )
        trainer.pop_callback(PrinterCallback)
        trainer.train()
    return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
