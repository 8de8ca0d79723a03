"""Complete and check the checkpoints of a run, and publish the adapter of one."""

import json
import math
import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hiplora.adapters import INITIAL_FILE
from hiplora.card import Card
from hiplora.errors import HiploraError
from hiplora.files import atomic_path, read_json
from hiplora.paths import RUN_ADAPTER
from hiplora.training.run import COMPLETE, Checkpoint, Run

if TYPE_CHECKING:
    from hiplora.tuner import ShadowPrices

PRICES = "shadow_prices.json"
"""Saved next to the Trainer's own files, for methods with a core."""
_TRAINER_STATES = ("optimizer.pt", "scheduler.pt", "rng_state.pth")
_LOADED = (".bin", ".pt", ".pth", ".pkl", ".safetensors")
_ADAPTER_FILES = ("adapter_config.json", "adapter_model.safetensors", INITIAL_FILE)


def complete(run: Run, step: int, prices: "ShadowPrices | None") -> Checkpoint:
    """Add the files that the Trainer does not save to its checkpoint of a step, and mark it complete."""
    path = run.path / "checkpoints" / f"checkpoint-{step}"
    # The Trainer's own settings, a pickle that nothing here reads.
    (path / "training_args.bin").unlink(missing_ok=True)
    (path / "README.md").unlink(missing_ok=True)
    if (run.path / INITIAL_FILE).is_file():
        shutil.copyfile(run.path / INITIAL_FILE, path / INITIAL_FILE)
    if prices is not None:
        (path / PRICES).write_text(json.dumps(prices.state()), encoding="utf-8")
    _sync(path, run.path / "events.jsonl")
    (path / COMPLETE).touch()
    _sync(path)
    return Checkpoint(step, path)


def require_resumable(checkpoint: Checkpoint, has_prices: bool) -> None:
    """Raise, before anything is changed, if a checkpoint lacks the state needed to resume training.

    Raises:
        HiploraError: a file is missing or damaged.
    """
    import torch
    from transformers.trainer_pt_utils import safe_globals

    for path in checkpoint.path.iterdir():
        # The Trainer would load such files, if their names are right.
        if path.suffix in _LOADED and path.name not in (*_TRAINER_STATES, *_ADAPTER_FILES):
            raise HiploraError(f"{path} does not belong to a run's checkpoint: remove it, then resume the run.")
    for name in (*_TRAINER_STATES, "trainer_state.json", *([PRICES] if has_prices else [])):
        path = checkpoint.path / name
        try:
            if name in _TRAINER_STATES:
                with safe_globals():
                    torch.load(path, map_location="cpu", weights_only=True)
            elif name == PRICES:
                _require_prices(read_json(path))
            else:
                _require_trainer_state(path, checkpoint.step)
        except Exception as error:
            raise HiploraError(
                f"{path} is missing or damaged, and training cannot resume without it ({type(error).__name__}): "
                "start a new run."
            ) from None


def _require_trainer_state(path: Path, step: int) -> None:
    """Raise an error of any kind if the Trainer's state has another form or is of another step."""
    from transformers import TrainerState

    state = TrainerState.load_from_json(str(path))
    numbers = (state.global_step, state.max_steps, state.num_input_tokens_seen, state.train_batch_size or 0)
    if any(type(number) is not int for number in numbers) or state.global_step != step:
        raise ValueError("another form or step")
    if not isinstance(state.log_history, list) or not isinstance(state.stateful_callbacks, dict):
        raise TypeError("another form")


def _require_prices(state: dict[str, Any]) -> None:
    """Raise an error of any kind if shadow prices have another form than `ShadowPrices.state` gives them."""
    if set(state) != {"samples", "sums"} or type(state["samples"]) is not int or state["samples"] < 0:
        raise ValueError("another form")
    for at, adapter, module, total in state["sums"]:
        if [type(each) for each in (at, adapter, module, total)] != [int, str, str, float] or not math.isfinite(total):
            raise ValueError("another form")


def write_adapter(run: Run, checkpoint: Checkpoint, card: Card) -> None:
    """Copy a checkpoint's adapter, with its card, to the run's adapter folder."""
    with atomic_path(run.path / RUN_ADAPTER) as draft:
        draft.mkdir()
        for name in _ADAPTER_FILES:
            if (checkpoint.path / name).is_file():
                shutil.copyfile(checkpoint.path / name, draft / name)
        card.write(draft)


def keep_adapters(run: Run) -> None:
    """Delete the training state of every checkpoint except the last; the adapters stay."""
    for earlier in run.checkpoints[:-1]:
        for name in (*_TRAINER_STATES, "trainer_state.json", PRICES):
            (earlier.path / name).unlink(missing_ok=True)


def _sync(*paths: Path) -> None:
    """Flush files, or a folder and its files, to disk."""
    for path in paths:
        for each in (*path.iterdir(), path) if path.is_dir() else (path,):
            if os.name == "nt" and each.is_dir():
                continue
            handle = os.open(each, os.O_RDONLY)
            try:
                os.fsync(handle)
            finally:
                os.close(handle)
