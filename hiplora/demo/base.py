"""The demo base: a small Llama, pretrained from scratch on the exact skills by an unchanged `transformers.Trainer`."""

import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from torch import nn
from transformers import (
    GenerationConfig,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
    PrinterCallback,
    Trainer,
    TrainerCallback,
    TrainingArguments,
    set_seed,
)

from hiplora.card import Card
from hiplora.demo.data import AnswerCollator, SkillDataset
from hiplora.demo.scoring import EVALUATION_SIZE, exact_match, score
from hiplora.demo.skills import ALL_FACTS, SKILLS, Skill
from hiplora.demo.tokenizer import VOCABULARY, build_tokenizer

ReportShare = Callable[[str, float], None]
"""Called with the name of what is training and the share done, from 0 to 1."""


@dataclass(frozen=True)
class Recipe:
    """How long and how fast to train.

    Attributes:
        steps: Optimizer steps.
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


RECIPE: Final = Recipe(steps=4000, batch_size=128, learning_rate=3e-3, warmup_steps=200, weight_decay=0.01)

# Skills that take longest to learn are drawn more often.
_OFTEN: Final = {"sort": 2.5, "add": 2.0, "fact": 1.5}
WEIGHTS: Final[dict[Skill, float]] = {
    skill: _OFTEN.get(name, 1.0) for name, skill in {**SKILLS, "fact": ALL_FACTS}.items()
}


def new_model(seed: int) -> LlamaForCausalLM:
    """Make the untrained base: 4 layers of width 128, 28 linear maps, tied embeddings, float32.

    Args:
        seed: Seeds the initial weights.
    """
    tokenizer = build_tokenizer()
    set_seed(seed)
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(VOCABULARY),
            hidden_size=128,
            intermediate_size=344,
            num_hidden_layers=4,
            num_attention_heads=4,
            num_key_value_heads=4,
            max_position_embeddings=64,
            tie_word_embeddings=True,
            initializer_range=0.05,
            pad_token_id=tokenizer.pad_token_id,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
        )
    )


class _Report(TrainerCallback):
    def __init__(self, what: str, progress: ReportShare) -> None:
        self._what = what
        self._progress = progress

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self._progress(self._what, state.global_step / state.max_steps)


def fit(
    model: nn.Module,
    tokenizer: PreTrainedTokenizerFast,
    weights: dict[Skill, float],
    recipe: Recipe,
    seed: int,
    what: str,
    progress: ReportShare,
) -> list[float]:
    """Train a model in place on the CPU, in float32.

    Args:
        model: The model; parameters that require a gradient are trained.
        tokenizer: The demo tokenizer.
        weights: How often each skill is drawn, relative to the others.
        recipe: Steps, batch size, learning rate.
        seed: Seeds the data and their order.
        what: Names this training in `progress`.
        progress: Called after every step.

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


def build_base(
    out: Path, seed: int, recipe: Recipe = RECIPE, *, evaluation_size: int = EVALUATION_SIZE, progress: ReportShare
) -> Card:
    """Pretrain the base and save it as an ordinary transformers folder with its card.

    Args:
        out: The folder to write; made when missing.
        seed: Seeds weights and data.
        recipe: Steps, batch size, learning rate.
        evaluation_size: Examples per skill for the card's scores, at most.
        progress: Called after every step.

    Returns:
        The card, as written to `card.json`.
    """
    started = time.perf_counter()
    tokenizer, model = build_tokenizer(), new_model(seed)
    fit(model, tokenizer, WEIGHTS, recipe, seed, "base", progress)
    # The trainer turns the cache off for training; a base is loaded to generate.
    model.config.use_cache = True
    model.generation_config = GenerationConfig(
        max_new_tokens=12,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    model.save_pretrained(out)
    tokenizer.save_pretrained(out)
    card = Card(
        seed=seed,
        steps=recipe.steps,
        batch_size=recipe.batch_size,
        learning_rate=recipe.learning_rate,
        skills=score(model, tokenizer, size=evaluation_size),
        seconds=round(time.perf_counter() - started),
        more={
            "parameters": model.num_parameters(),
            "all_facts": exact_match(model, tokenizer, ALL_FACTS.table),
        },
    )
    card.write(out)
    return card
