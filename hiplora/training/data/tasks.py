"""Training data and scores of a run: from a task of the demo world, or from a user's file."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from hiplora.card import Card
from hiplora.errors import HiploraError
from hiplora.sources import BaseModel
from hiplora.training.config import RunConfig
from hiplora.training.data.files import read_texts
from hiplora.training.events import Scores, finite

if TYPE_CHECKING:
    import torch
    from torch.utils.data import Dataset

_LIVE_SIZE = 50
"""Examples per skill for a score during training; the final card uses the full number."""
_PROBE_SIZE = 16
"""Examples of a file for a validation or probe loss: a language model on a CPU is slow."""


@dataclass(frozen=True)
class TrainingData:
    """Training data for `transformers.Trainer`, and the function that scores.

    Attributes:
        dataset: training examples.
        collator: batches them.
        score: (model, steps done) -> scores.
        caveats: sentences for the user, such as what was left out.
    """

    dataset: "Dataset[Any]"
    collator: Callable[[Any], Any]
    score: Callable[["torch.nn.Module", int], Scores]
    caveats: list[str] = field(default_factory=list)


def require_demo_base(task: str, base: BaseModel) -> None:
    """Raise if a base cannot learn a task of the demo world.

    Raises:
        HiploraError: the base has no card with its scores on the skills.
    """
    if not Card.read(base.path).skills:
        raise HiploraError(
            f"{base.name} was not trained on the demo world, so it cannot learn {task}: choose the base `demo`, or "
            "give a data file instead."
        )


def load_data(config: RunConfig, base: BaseModel, tokenizer: Any, model: "torch.nn.Module") -> TrainingData:
    """Load the training data of a run.

    Args:
        config: settings of the run.
        base: with its card if the run trains on a task.
        tokenizer: of the base.
        model: the base before training, whose loss on the probe is the reference.

    Raises:
        HiploraError: the file cannot be used.
    """
    return _of_task(config, base, tokenizer) if config.task else _of_file(config, tokenizer, model)


def _of_task(config: RunConfig, base: BaseModel, tokenizer: Any) -> TrainingData:
    from hiplora.demo.data import AnswerCollator, SkillDataset
    from hiplora.demo.scoring import score
    from hiplora.demo.skills import find

    assert config.task is not None
    assert config.batch_size is not None
    task = config.task
    before = Card.read(base.path).skills

    def scores(model: "torch.nn.Module", step: int) -> Scores:
        # The final scores use more examples than those during training.
        size = config.evaluation_size if step >= config.steps else min(config.evaluation_size, _LIVE_SIZE)
        skills = score(model, tokenizer, before, size)
        # A barely trained base may score 0 on a skill, which then cannot be lost.
        kept = [skills[name] / value if value else 1.0 for name, value in before.items()]
        more: dict[str, float | None] = {"locality": skills["fact"]} if task == "edit" else {}
        return Scores(step, score(model, tokenizer, [task], size)[task], sum(kept) / len(kept), skills, more)

    dataset = SkillDataset({find(task): 1.0}, config.steps * config.batch_size, config.seed)
    return TrainingData(dataset, AnswerCollator(tokenizer), scores)


def _of_file(config: RunConfig, tokenizer: Any, model: "torch.nn.Module") -> TrainingData:
    from torch.utils.data import Subset

    from hiplora.training.data.tokens import collator, mean_loss, split, tokenize

    assert config.data is not None
    assert config.batch_size is not None
    batch_size = config.batch_size
    max_length = min(config.max_length, getattr(model.config, "max_position_embeddings", config.max_length))
    whole = tokenize(read_texts(config.data), tokenizer, max_length)
    dataset, validation = split(whole, seed=config.seed, most=_PROBE_SIZE)
    caveats, collate = [whole.caveat], collator(tokenizer)
    probe, probe_before = None, math.nan
    if config.probe:
        told = tokenize(read_texts(config.probe), tokenizer, max_length)
        caveats.append(told.caveat)
        probe = Subset(told, range(min(len(told), _PROBE_SIZE)))
        probe_before = mean_loss(model, probe, collate, batch_size)

    def scores(model: "torch.nn.Module", step: int) -> Scores:
        loss = mean_loss(model, validation, collate, batch_size)
        more, retention = {"validation_loss": finite(loss)}, None
        if probe is not None:
            probe_loss = mean_loss(model, probe, collate, batch_size)
            more["probe_loss"], retention = finite(probe_loss), math.exp(probe_before - probe_loss)
        return Scores(step, math.exp(-loss), retention, {}, more)

    return TrainingData(dataset, collate, scores, [caveat for caveat in caveats if caveat])
