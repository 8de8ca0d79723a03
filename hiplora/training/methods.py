"""The methods to compare: one table, each with the PEFT config it trains with and the ranks that match its size.

All are given the size of a plain LoRA of rank `r`. Methods that train something beside the two factors (a core, a
magnitude) get a smaller rank for it, so that the trainable parameters agree within 5 %.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from hiplora.errors import HiploraError

if TYPE_CHECKING:
    from peft import PeftConfig

    from hiplora.training.config import RunConfig

TOLERANCE: Final = 0.05
"""Largest difference in trainable parameters between methods that are compared (METHOD.md section 5)."""


@dataclass(frozen=True)
class Method:
    """One way to adapt a model.

    Attributes:
        key: what is typed.
        title: what it is called.
        summary: what it does, in one phrase.
        source: where it comes from.
        extra: trainable parameters of one module of shape (m, n) beside the two factors.
        fields: what its PEFT config has beside those that all methods share.
        learning_rate_ratio: learning rate of `B` over that of `A`.
    """

    key: str
    title: str
    summary: str
    source: str
    extra: "Callable[[int, int, RunConfig], int]" = lambda m, n, config: 0
    fields: "Callable[[RunConfig], dict[str, Any]]" = lambda config: {}
    learning_rate_ratio: float = 1.0

    def parameters(self, shape: tuple[int, int], r: int, config: "RunConfig") -> int:
        """Return how many parameters one module of shape (m, n) trains at rank `r`."""
        m, n = shape
        return r * (m + n) + self.extra(m, n, config)


def _hiplora_fields(config: "RunConfig") -> dict[str, Any]:
    return {
        "principal_rank": config.principal_rank,
        "core": config.core,
        "budget_mode": config.budget_mode,
        "budget_lambda": config.budget_lambda,
        "budget_power": config.budget_power,
        "epsilon": config.epsilon,
        "epsilon_pattern": dict(config.epsilon_pattern),
    }


def _core_size(m: int, n: int, config: "RunConfig") -> int:
    return config.principal_rank ** (2 if config.core == "full" else 1)


_ALL = (
    Method("lora", "LoRA", "a low-rank update", "Hu et al., arXiv 2106.09685"),
    Method(
        "loraplus",
        "LoRA+",
        "LoRA whose B learns 16 times as fast as its A",
        "Hayou et al., arXiv 2402.12354; both rates lie around the common one, which is our choice",
        learning_rate_ratio=16.0,
    ),
    Method(
        "rslora",
        "rsLoRA",
        "LoRA scaled by alpha / sqrt(r)",
        "Kalajdzievski, arXiv 2312.03732",
        fields=lambda config: {"use_rslora": True},
    ),
    Method(
        "pissa",
        "PiSSA",
        "LoRA that starts from the leading singular directions, taken out of the base",
        "Meng et al., arXiv 2404.02948",
        fields=lambda config: {"init_lora_weights": "pissa"},
    ),
    Method(
        "dora",
        "DoRA",
        "LoRA with the size of each row trained apart",
        "Liu et al., arXiv 2402.09353",
        extra=lambda m, n, config: m,
        fields=lambda config: {"use_dora": True},
    ),
    Method(
        "hiplora",
        "HiP-LoRA",
        "a budgeted core on the leading singular directions, and a low-rank update beside them",
        "Chen and Tan, arXiv 2604.17751",
        extra=_core_size,
        fields=_hiplora_fields,
    ),
)

METHODS: Final[dict[str, Method]] = {method.key: method for method in _ALL}


def find_method(key: str) -> Method:
    """Look up a method.

    Raises:
        HiploraError: the method is unknown.
    """
    if key not in METHODS:
        raise HiploraError(f"'{key}' is no method: choose one of {', '.join(METHODS)}.")
    return METHODS[key]


@dataclass(frozen=True)
class Match:
    """The ranks of a method that train as many parameters as a LoRA of rank `r`.

    Attributes:
        ranks: `{module: rank}`.
        parameters: trained in all.
        reference: trained by the LoRA.
    """

    ranks: dict[str, int]
    parameters: int
    reference: int

    @property
    def difference(self) -> float:
        """Relative difference to the LoRA."""
        return self.parameters / self.reference - 1


def match_parameters(method: Method, shapes: Mapping[str, tuple[int, int]], config: "RunConfig") -> Match:
    """Find ranks at which a method trains as many parameters as a LoRA of rank `config.r`.

    The same rank everywhere where that is within 5 %; else some modules, spread evenly, get one more.

    Args:
        method: which.
        shapes: `{module: (m, n)}` of all that is adapted.
        config: `r`, and what the method's own parameters depend on.

    Raises:
        HiploraError: `r` or `k` is larger than a module, or no rank comes within 5 %.
    """
    _require_fit("r", config.r, shapes)
    if method.key == "hiplora":
        _require_fit("k", config.principal_rank, shapes)
    lora = METHODS["lora"]
    reference = sum(lora.parameters(shape, config.r, config) for shape in shapes.values())

    def total(ranks: Mapping[str, int]) -> int:
        return sum(method.parameters(shape, ranks[module], config) for module, shape in shapes.items())

    def uniform(r: int) -> dict[str, int]:
        return dict.fromkeys(shapes, r)

    best = min(range(1, config.r + 1), key=lambda r: abs(total(uniform(r)) - reference))
    ranks = uniform(best)
    if abs(total(ranks) / reference - 1) > TOLERANCE:
        low = max((r for r in range(1, config.r + 1) if total(uniform(r)) <= reference), default=0)
        ranks = uniform(low)
        share, carry = (reference - total(ranks)) / sum(m + n for m, n in shapes.values()), 0.0
        for module in shapes:
            carry += share
            if low and carry >= 1:
                ranks[module] += 1
                carry -= 1
    found = Match(ranks, total(ranks), reference)
    if abs(found.difference) > TOLERANCE:
        more = f"a smaller k than {config.principal_rank}, core='diagonal', or " if method.key == "hiplora" else ""
        raise HiploraError(
            f"{method.title} cannot train as few parameters as a LoRA of r={config.r} within {TOLERANCE:.0%}: use "
            f"{more}a larger r."
        )
    return found


def _require_fit(name: str, value: int, shapes: Mapping[str, tuple[int, int]]) -> None:
    module, shape = min(shapes.items(), key=lambda item: min(item[1]))
    if value > min(shape):
        raise HiploraError(
            f"{name}={value} is larger than {module} ({shape[0]} x {shape[1]}): use at most {min(shape)}."
        )


def peft_config(method: Method, match: Match, config: "RunConfig", left_alone: Iterable[str] = ()) -> "PeftConfig":
    """Return the config that `peft.get_peft_model` takes.

    `alpha / r` is `config.lora_alpha / config.r` for every method and module, whatever rank it was given.

    Args:
        method: which.
        match: the ranks of all modules to adapt.
        config: of the run.
        left_alone: the other linear maps of the model.
    """
    leaves = {module.rpartition(".")[2] for module in match.ranks}
    # Short names where they mean the same modules.
    targets = match.ranks.keys() if leaves & {module.rpartition(".")[2] for module in left_alone} else leaves
    r = Counter(match.ranks.values()).most_common(1)[0][0]
    scaling = config.lora_alpha / config.r

    def alpha(rank: int) -> float:
        value = scaling * rank
        return int(value) if value == int(value) else value

    other = {module: rank for module, rank in match.ranks.items() if rank != r}
    shared: dict[str, Any] = {
        "r": r,
        "lora_alpha": alpha(r),
        "rank_pattern": other,
        "alpha_pattern": {module: alpha(rank) for module, rank in other.items()},
        "target_modules": sorted(targets),
        "task_type": "CAUSAL_LM",
        **method.fields(config),
    }
    if method.key == "hiplora":
        from hiplora.tuner import HipLoraConfig

        return HipLoraConfig(**shared)
    from peft import LoraConfig

    return LoraConfig(**shared)
