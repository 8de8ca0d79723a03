"""Rebuild the whole demo world from seeds: the base, then each adapter, then one rename that puts them in place."""

import json
import shutil
import tempfile
from pathlib import Path
from typing import Any, Final

from hiplora.card import CARD_FILE, Card
from hiplora.demo import ADAPTERS
from hiplora.demo.base import RECIPE, Recipe, ReportShare, build_base
from hiplora.demo.inputs import calibrate_base
from hiplora.demo.scoring import EVALUATION_SIZE
from hiplora.errors import HiploraError
from hiplora.files import atomic_path, read_json
from hiplora.training.config import RunConfig
from hiplora.training.events import Event, Step
from hiplora.training.run import Run
from hiplora.training.train import train

_SHIPPED_BASE: Final = "assets/demo/base"
"""The base path in the adapters' configs: relative to the project, so that it is valid on every machine."""


def build_adapter(out: Path, config: RunConfig, progress: ReportShare) -> Card:
    """Train one adapter and save it as an ordinary PEFT folder with its card.

    Args:
        out: the folder to write; made when missing.
        config: settings of the run; its base is the folder of the demo base.
        progress: called after every step.

    Returns:
        The card, as written to `card.json`.

    Raises:
        HiploraError: as `hiplora.training.train.train`.
    """
    with tempfile.TemporaryDirectory() as scratch:
        run = Run.create(Path(scratch) / config.default_name, config)
        name = f"{config.task}-{config.method}"

        def report(event: Event) -> None:
            if isinstance(event, Step):
                progress(name, event.step / config.steps)

        train(run, report=report)
        assert run.adapter is not None
        shutil.copytree(run.adapter, out)
    path = out / "adapter_config.json"
    path.write_text(json.dumps(read_json(path) | {"base_model_name_or_path": _SHIPPED_BASE}, indent=2, sort_keys=True))
    return Card.read(out)


def build(
    out: Path,
    seed: int = 0,
    progress: ReportShare | None = None,
    *,
    base_recipe: Recipe | None = None,
    evaluation_size: int = EVALUATION_SIZE,
    **adapter: Any,
) -> Path:
    """Train the base and all adapters into one folder; a build that fails or is stopped leaves `out` unchanged.

    Args:
        out: the folder to write: `base`, and `adapters/<task>-<method>`. An earlier demo there is replaced.
        seed: seeds everything. The same seed, machine and library versions give the same weights and scores.
        progress: called with the name of what is training (`base`, `swap-lora`, ...) and the share done, 0 to 1.
        base_recipe: how long and how fast the base trains; by default as for the shipped base.
        evaluation_size: examples per skill for the cards' scores, at most.
        adapter: non-default fields of `RunConfig`, for every adapter.

    Returns:
        `out`.

    Raises:
        HiploraError: `out` holds something that is not an earlier demo.
    """
    if out.exists() and not (out / "base" / CARD_FILE).is_file() and (not out.is_dir() or any(out.iterdir())):
        raise HiploraError(f"{out} exists and is not an earlier demo: choose an empty or a new folder.")
    report = progress or (lambda what, done: None)
    with atomic_path(out) as made:
        folder = made / "base"
        build_base(folder, seed, base_recipe or RECIPE, evaluation_size=evaluation_size, progress=report)
        calibrate_base(folder, seed)
        for name in ADAPTERS:
            task, method = name.split("-")
            config = RunConfig(
                base=str(folder),
                task=task,
                method=method,
                seed=seed,
                device="cpu",
                evaluation_size=evaluation_size,
                **adapter,
            )
            build_adapter(made / "adapters" / name, config, report)
    return out
