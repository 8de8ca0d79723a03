"""What a run learns from and is scored on: a task of the demo world, or a user's file."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from hiplora.errors import HiploraError
from hiplora.files import read_json
from hiplora.sources import BaseModel
from hiplora.training.config import RunConfig
from hiplora.training.records import read_texts

if TYPE_CHECKING:
    import torch
    from torch.utils.data import Dataset

_LIVE_SIZE = 50
"""Examples per skill behind a score while training goes on; the card at the end has the full number."""
_PROBE_SIZE = 16
"""Examples of a file behind a loss that is watched: a language model on a CPU is slow."""


@dataclass(frozen=True)
class Scores:
    """What a model can do at one moment.

    Attributes:
        task: of what is learned, 0 to 1.
        retention: share of what the base could do that is kept; None where nothing tells.
        skills: what retention is made of, by name.
        more: what else the card says.
    """

    task: float
    retention: float | None
    skills: dict[str, float] = field(default_factory=dict)
    more: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class TrainingData:
    """What `transformers.Trainer` takes, and how to score.

    Attributes:
        dataset: of training examples.
        collator: makes a batch of them.
        score: model, and whether it is the last time -> scores.
        notes: sentences on what was left out.
    """

    dataset: "Dataset[Any]"
    collator: Callable[[Any], dict[str, "torch.Tensor"]]
    score: Callable[["torch.nn.Module", bool], Scores]
    notes: list[str] = field(default_factory=list)


def require_lines(task: str, base: BaseModel) -> None:
    """Raise when a base cannot learn a task of the demo world.

    Raises:
        HiploraError: the base has no card that says how well it knows the skills.
    """
    card = base.path / "card.json"
    if not card.is_file() or not isinstance(read_json(card).get("skills"), dict):
        raise HiploraError(
            f"{base.name} does not speak the demo world's lines, so it cannot learn {task}: choose the base `demo`, or "
            "give a data file instead."
        )


def load_data(config: RunConfig, base: BaseModel, tokenizer: Any, model: "torch.nn.Module") -> TrainingData:
    """Open what a run learns from.

    Args:
        config: of the run.
        base: with its card, where a task of the demo world is learned.
        tokenizer: of the base.
        model: the base itself, before anything is trained: what a probe's loss is compared with.

    Raises:
        HiploraError: the file cannot be used.
    """
    return _of_task(config, base, tokenizer) if config.task else _of_file(config, tokenizer, model)


def _of_task(config: RunConfig, base: BaseModel, tokenizer: Any) -> TrainingData:
    from hiplora.demo import read_card
    from hiplora.demo.data import AnswerCollator, SkillDataset
    from hiplora.demo.scoring import score
    from hiplora.demo.skills import find

    assert config.task is not None
    assert config.batch_size is not None
    task = config.task
    before = read_card(base.path)["skills"]

    def scores(model: "torch.nn.Module", last: bool) -> Scores:
        size = config.evaluation_size if last else min(config.evaluation_size, _LIVE_SIZE)
        skills = score(model, tokenizer, before, size)
        # A barely trained base may score 0 on a skill, which then cannot be lost.
        kept = [skills[name] / value if value else 1.0 for name, value in before.items()]
        more = {"locality": skills["fact"]} if task == "edit" else {}
        return Scores(score(model, tokenizer, [task], size)[task], sum(kept) / len(kept), skills, more)

    dataset = SkillDataset({find(task): 1.0}, config.steps * config.batch_size, config.seed)
    return TrainingData(dataset, AnswerCollator(tokenizer), scores)


def _of_file(config: RunConfig, tokenizer: Any, model: "torch.nn.Module") -> TrainingData:
    from torch.utils.data import Subset

    from hiplora.training.texts import collator, mean_loss, split, tokenize

    assert config.data is not None
    assert config.batch_size is not None
    batch_size = config.batch_size
    max_length = min(config.max_length, getattr(model.config, "max_position_embeddings", config.max_length))
    whole = tokenize(read_texts(config.data), tokenizer, max_length)
    dataset, validation = split(whole, seed=config.seed, most=_PROBE_SIZE)
    notes, collate = [whole.note], collator(tokenizer)
    probe, probe_before = None, math.nan
    if config.probe:
        told = tokenize(read_texts(config.probe), tokenizer, max_length)
        notes.append(told.note)
        probe = Subset(told, range(min(len(told), _PROBE_SIZE)))
        probe_before = mean_loss(model, probe, collate, batch_size)

    def scores(model: "torch.nn.Module", last: bool) -> Scores:
        loss = mean_loss(model, validation, collate, batch_size)
        more, retention = {"validation_loss": loss}, None
        if probe is not None:
            more["probe_loss"] = mean_loss(model, probe, collate, batch_size)
            retention = math.exp(probe_before - more["probe_loss"])
        return Scores(math.exp(-loss), retention, {}, more)

    return TrainingData(dataset, collate, scores, [note for note in notes if note])
