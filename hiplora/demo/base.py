"""The demo base: a small Llama, pretrained from nothing on the exact skills."""

import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from hiplora.demo.fitting import Progress, Recipe, fit
from hiplora.demo.scoring import EVALUATION_SIZE, exact_match, score
from hiplora.demo.skills import ALL_FACTS, SKILLS, Skill
from hiplora.demo.tokenizer import VOCABULARY, build_tokenizer

if TYPE_CHECKING:
    from transformers import LlamaForCausalLM

RECIPE: Final = Recipe(steps=4000, batch_size=128, learning_rate=3e-3, warmup_steps=200, weight_decay=0.01)

# Seen more often than the others: what takes longest to learn.
_OFTEN: Final = {"sort": 2.5, "add": 2.0, "fact": 1.5}
WEIGHTS: Final[dict[Skill, float]] = {
    skill: _OFTEN.get(name, 1.0) for name, skill in {**SKILLS, "fact": ALL_FACTS}.items()
}


def new_model(seed: int) -> "LlamaForCausalLM":
    """Make the untrained base: 4 layers of width 128, 28 linear maps, tied embeddings, float32.

    Args:
        seed: Seeds the initial weights.
    """
    from transformers import LlamaConfig, LlamaForCausalLM, set_seed

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


def build_base(
    out: Path, seed: int, recipe: Recipe = RECIPE, *, evaluation_size: int = EVALUATION_SIZE, progress: Progress
) -> dict[str, Any]:
    """Pretrain the base and save it as an ordinary transformers folder with its card.

    Args:
        out: The folder to write; made when missing.
        seed: Seeds weights and data.
        recipe: Steps, batch size, learning rate.
        evaluation_size: Examples per skill for the card's scores, at most.
        progress: Told after every step.

    Returns:
        The card, as written to `card.json`.
    """
    from transformers import GenerationConfig

    started = time.perf_counter()
    tokenizer, model = build_tokenizer(), new_model(seed)
    fit(model, tokenizer, WEIGHTS, recipe, seed, "base", progress)
    # The trainer turns the cache off for training; whoever loads the base wants to generate.
    model.config.use_cache = True
    model.generation_config = GenerationConfig(
        max_new_tokens=12,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    model.save_pretrained(out)
    tokenizer.save_pretrained(out)
    card = {
        "seed": seed,
        "steps": recipe.steps,
        "batch_size": recipe.batch_size,
        "learning_rate": recipe.learning_rate,
        "parameters": model.num_parameters(),
        "skills": score(model, tokenizer, size=evaluation_size),
        "all_facts": exact_match(model, tokenizer, ALL_FACTS.table),
        "seconds": round(time.perf_counter() - started),
    }
    (out / "card.json").write_text(json.dumps(card, indent=2) + "\n", encoding="utf-8")
    return card
