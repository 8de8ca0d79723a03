"""Rebuilds all of the demo world from seeds: the base, then each adapter, then one rename that puts them in place."""

from pathlib import Path

from hiplora.demo import ADAPTERS, adapters, base
from hiplora.demo.fitting import Progress, Recipe
from hiplora.demo.scoring import EVALUATION_SIZE
from hiplora.errors import HiploraError
from hiplora.files import atomic_path


def build(
    out: Path,
    seed: int = 0,
    progress: Progress | None = None,
    *,
    base_recipe: Recipe = base.RECIPE,
    adapter_recipe: Recipe = adapters.RECIPE,
    evaluation_size: int = EVALUATION_SIZE,
) -> Path:
    """Train the base and all adapters into one folder; a build that fails or is stopped leaves `out` as it was.

    Args:
        out: The folder to write: `base`, and `adapters/<task>-<method>`. An earlier demo there is replaced.
        seed: Seeds everything. The same seed, machine and library versions give the same weights and scores.
        progress: Called with what is being trained (`base`, `swap-lora`, ...) and the share of it done, 0 to 1.
        base_recipe: How long and how fast the base trains.
        adapter_recipe: How long and how fast every adapter trains.
        evaluation_size: Examples per skill for the cards' scores, at most.

    Returns:
        `out`.

    Raises:
        HiploraError: `out` holds something that is not an earlier demo.
    """
    if out.exists() and not (out / "base" / "card.json").is_file() and (not out.is_dir() or any(out.iterdir())):
        raise HiploraError(f"{out} exists and is no earlier demo; name an empty or a new folder.")
    report = progress or (lambda what, done: None)
    with atomic_path(out) as made:
        base.build_base(made / "base", seed, base_recipe, evaluation_size=evaluation_size, progress=report)
        for name in ADAPTERS:
            task, method = name.split("-")
            adapters.build_adapter(
                made / "base",
                made / "adapters" / name,
                task,
                method,
                seed,
                adapter_recipe,
                evaluation_size=evaluation_size,
                progress=report,
            )
    return out
