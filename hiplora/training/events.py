"""Events of a run. `Step`, `Layers`, `Drift` and `Scores` are recorded, one JSON object a line; all are reported."""

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Final, Literal, TypeAlias, get_args

from hiplora.card import Card

Geometry = Literal["weights", "inputs"]


@dataclass(frozen=True)
class Phase:
    """The start of something that takes a while.

    Attributes:
        text: the work that has begun.
    """

    text: str


@dataclass(frozen=True)
class Caveat:
    """Something about the data that the user should know.

    Attributes:
        text: one or more sentences.
    """

    text: str


@dataclass(frozen=True)
class Step:
    """One optimizer step.

    Attributes:
        step: its number, from 1.
        loss: the minimized loss.
        task_loss: the loss without the budget penalty.
        penalty: the budget penalty.
        learning_rate: at this step; None if it is not known.
        grad_norm: over all trained parameters; None if it is not finite.
        seconds: training time so far.
        tokens: tokens seen so far.
    """

    step: int
    loss: float
    task_loss: float
    penalty: float
    learning_rate: float | None
    grad_norm: float | None
    seconds: float
    tokens: int


@dataclass(frozen=True)
class Layers:
    """A measurement of the update, one entry per adapted module, in the order of the run's modules.

    Attributes:
        step: optimizer steps done.
        total_relative_norm: `||dW||_F / ||W0||_F` over all modules.
        epsilon: the budget.
        tightness: `sqrt(cost) / epsilon`.
        principal_norm: Frobenius norm of the block PP.
        mixed_norm: of the blocks PR and RP together.
        residual_norm: of the block RR.
        relative_norm: `||dW||_F / ||W0||_F`.
        shadow_price: task loss per unit of cost; None for methods without a core.
    """

    step: int
    total_relative_norm: float
    epsilon: list[float | None]
    tightness: list[float | None]
    principal_norm: list[float | None]
    mixed_norm: list[float | None]
    residual_norm: list[float | None]
    relative_norm: list[float | None]
    shadow_price: list[float] | None = None


@dataclass(frozen=True)
class Drift:
    """The principal share of the whole update in one geometry, in the terms of `hiplora.measures.summary_table`.

    Attributes:
        step: optimizer steps done.
        geometry: `weights`, or `inputs` of the base's calibration.
        text: what the inputs are those of; empty for the weights.
        relative_norm: `||dW||_F / ||W0||_F` over all modules; on inputs the relative effect.
        pp: share of the energy in the principal block.
        pp_null: the same of a random update.
        pp_null_low: 2.5 % quantile of the null.
        pp_null_high: 97.5 % quantile of the null.
        enrichment: `pp / pp_null`.
    """

    step: int
    geometry: Geometry
    text: str
    relative_norm: float | None
    pp: float
    pp_null: float
    pp_null_low: float
    pp_null_high: float
    enrichment: float


@dataclass(frozen=True)
class Scores:
    """Scores of the model at one step.

    Attributes:
        step: optimizer steps done.
        task_score: score on the task or the held-out text, 0 to 1.
        retention: share of the base's ability that is kept; None if it is not measured.
        skills: score on each of the base's skills, from which retention is computed.
        more: further entries of the card, such as `validation_loss`; None if infinite.
    """

    step: int
    task_score: float
    retention: float | None
    skills: dict[str, float]
    more: dict[str, float | None] = field(default_factory=dict)


Recorded: TypeAlias = Step | Layers | Drift | Scores
Event: TypeAlias = Recorded | Phase | Caveat

_KINDS: Final[dict[str, type[Recorded]]] = {"step": Step, "layers": Layers, "drift": Drift, "scores": Scores}


def to_json(event: Recorded) -> dict[str, Any]:
    """Return the JSON object of an event; entries of `more` become keys of it, and missing prices are left out."""
    values = asdict(event)
    if isinstance(event, Layers) and event.shadow_price is None:
        del values["shadow_price"]
    more = values.pop("more", {})
    return {"event": next(kind for kind, each in _KINDS.items() if type(event) is each)} | values | more


def from_json(value: Any) -> Recorded:
    """Build an event from the result of `to_json`.

    Raises:
        ValueError: it is not an event, or a part is missing or of the wrong type.
    """
    try:
        values = dict(value)
        kind = _KINDS[values.pop("event")]
        known = {each.name: each.type for each in fields(kind) if each.name != "more"}
        if kind is Scores:
            values["more"] = {name: values.pop(name) for name in [*values] if name not in known}
        event = kind(**values)
    except (TypeError, KeyError) as error:
        raise ValueError(f"not an event: {error}") from None
    for name, type_ in known.items():
        if not _FITS[type_](getattr(event, name)):
            raise ValueError(f"not an event: {name}")
    if isinstance(event, Scores) and not all(each is None or _is_number(each) for each in event.more.values()):
        raise ValueError("not an event: more")
    return event


def _is_number(value: Any) -> bool:
    """Whether a value is a number that a float can hold."""
    try:
        return type(value) in (int, float) and math.isfinite(value)
    except OverflowError:
        return False


def _is_list(value: Any, optional: bool) -> bool:
    return isinstance(value, list) and all(_is_number(each) or (optional and each is None) for each in value)


_FITS: Final[dict[Any, Callable[[Any], bool]]] = {
    int: lambda value: type(value) is int and _is_number(value),
    str: lambda value: isinstance(value, str),
    Geometry: lambda value: value in get_args(Geometry),
    float: _is_number,
    float | None: lambda value: value is None or _is_number(value),
    list[float | None]: lambda value: _is_list(value, optional=True),
    list[float] | None: lambda value: value is None or _is_list(value, optional=False),
    dict[str, float]: lambda value: isinstance(value, dict) and all(map(_is_number, value.values())),
}


def finite(value: float | None) -> float | None:
    """Return a number for JSON: None if it is not finite."""
    return float(value) if value is not None and math.isfinite(value) else None


def in_words(scores: Scores | Card) -> str:
    """Return scores in words for the command line: shares for a task, losses for a file."""
    if "validation_loss" in scores.more:
        losses = {name: scores.more[name] for name in ("validation_loss", "probe_loss") if name in scores.more}
        return ", ".join(
            f"{name.replace('_', ' ')} {'infinite' if loss is None else format(loss, '.4g')}"
            for name, loss in losses.items()
        )
    return f"task score {scores.task_score:.1%}, {scores.retention:.1%} of the base kept"
