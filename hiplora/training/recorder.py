"""What a run writes down while it trains: events, complete checkpoints, and the adapter that is read."""

import json
import math
import os
import shutil
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hiplora.adapters import INITIAL_FILE, place
from hiplora.errors import HiploraError
from hiplora.files import atomic_path
from hiplora.paths import RUN_ADAPTER
from hiplora.training.data import Scores
from hiplora.training.run import COMPLETE, Checkpoint, Run

if TYPE_CHECKING:
    from hiplora.training.train import Training

# What is kept beside the Trainer's own files.
PRICES = "shadow_prices.json"
STATES = ("optimizer.pt", "scheduler.pt", "rng_state.pth")
"""What only going on needs."""
_TRAINER_FILES = (*STATES, "trainer_state.json", PRICES)


class Recorder:
    """Writes down what happens: losses at every step, measurements, scores and checkpoints at theirs."""

    def __init__(self, training: "Training", past: list[dict[str, Any]], checkpoint: Checkpoint | None):
        self.training, self.run, self.config = training, training.run, training.config
        steps = [event for event in past if event["event"] == "step"]
        self._seconds = steps[-1]["seconds"] if steps else 0.0
        self._scored = next((event for event in reversed(past) if event["event"] == "scores"), None)
        # A checkpoint whose own loss has not been seen yet.
        self._unseen: Checkpoint | None = None
        self._penalty = 0.0
        self._prices: Any = None
        if training.method.has_core:
            from hiplora.tuner import ShadowPrices

            self._prices = ShadowPrices(training.model)
            training.stack.callback(self._prices.close)
            if checkpoint:
                self._prices.load_state(json.loads((checkpoint.path / PRICES).read_text(encoding="utf-8")))

    def callback(self) -> Any:
        """Return it as the Trainer wants it."""
        from transformers import TrainerCallback

        recorder = self

        class Callback(TrainerCallback):
            def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
                recorder.begin(state.global_step)

            def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
                recorder.before_step()

            def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
                recorder.after_step(state.global_step)
                if recorder.training.stopped():
                    control.should_training_stop = control.should_save = True

            def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
                if "loss" in logs:
                    recorder.log(state, logs)

            def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
                recorder.save(state.global_step)

        return Callback()

    def begin(self, step: int) -> None:
        """Score and measure the start of a new run."""
        if step == 0:
            self.score(0)
            self.measure(0)
        self._last = time.perf_counter()

    def before_step(self) -> None:
        """Keep what the budget charges for the step to come: the loss that the Trainer tells has it in it."""
        if self._prices is not None and self.config.budget_mode == "soft":
            import torch

            from hiplora.tuner import budget_penalty

            with torch.no_grad():
                penalty = budget_penalty(self.training.model)
            self._penalty = 0.0 if penalty is None else float(penalty)

    def after_step(self, step: int) -> None:
        """Measure and score where the config says so.

        Raises:
            HiploraError: a weight is no longer a number, or the run's folder is gone.
        """
        self.run.require()
        if not _all_finite(self.training.model):
            raise self._diverged("no longer a number", step)
        if self._prices is not None:
            self._prices.step()
        now = time.perf_counter()
        self._seconds += now - self._last
        if step % self.config.measure_every == 0 or step == self.config.steps:  # type: ignore[operator]
            self.measure(step)
        if step % self.config.score_every == 0 or step == self.config.steps:  # type: ignore[operator]
            self.score(step)
        # Looking is not training.
        self._last = time.perf_counter()

    def log(self, state: Any, logs: dict[str, float]) -> None:
        """Write the loss of a step; the checkpoint it was computed on is then known to be good.

        Raises:
            HiploraError: the loss is not a number.
        """
        loss, step = logs["loss"], state.global_step
        if not math.isfinite(loss):
            raise self._diverged(str(loss), step)
        self._unseen = None
        keep_adapters(self.run)
        self.run.append(
            {
                "event": "step",
                "step": step,
                "loss": loss,
                "task_loss": loss - self._penalty,
                "penalty": self._penalty,
                "learning_rate": logs["learning_rate"],
                "grad_norm": _finite(logs.get("grad_norm")),
                "seconds": round(self._seconds, 4),
                "tokens": int(state.num_input_tokens_seen),
            }
        )
        self.training.step = step
        self.training.report(f"loss {loss:.4f}", step)

    def _diverged(self, loss: str, step: int) -> HiploraError:
        """Forget a checkpoint whose own loss is the one that is no number, and return what to say."""
        if self._unseen is not None:
            shutil.rmtree(self._unseen.path)
            shutil.rmtree(self.run.path / RUN_ADAPTER)
            if kept := self.run.checkpoints:
                write_adapter(self.run, kept[-1], self.training.card(*self.last_scores(), kept[-1].step))
        last = self.run.checkpoints[-1].step if self.run.checkpoints else None
        return HiploraError(
            f"The loss of {self.run.name} is {loss} at step {step}: "
            + (f"its last good checkpoint is at step {last}; " if last else "there is no good checkpoint; ")
            + "start again with a lower learning rate."
        )

    def last_scores(self) -> tuple[Scores, int]:
        """Return the scores that were written last, and at which step."""
        assert self._scored is not None
        known = ("event", "step", "task_score", "retention", "skills")
        more = {name: value for name, value in self._scored.items() if name not in known}
        scores = Scores(self._scored["task_score"], self._scored["retention"], self._scored["skills"], more)
        return scores, self._scored["step"]

    def measure(self, step: int) -> None:
        """Write what the adapter does to each layer now."""
        from hiplora.adapters.from_model import live_adapter
        from hiplora.measures.progress import progress_table

        config = self.config
        placement = place(self.training.spectra.base, live_adapter(self.training.model, self.run.path))
        table = progress_table(
            self.training.spectra, placement, config.principal_rank, config.epsilon, config.budget_power
        )
        total = math.sqrt((table["norm"] ** 2).sum() / (table["base_norm"] ** 2).sum())
        columns = ("epsilon", "tightness", "principal_norm", "mixed_norm", "residual_norm", "relative_norm")
        event: dict[str, Any] = {"event": "layers", "step": step, "total_relative_norm": total}
        event |= {name: [_finite(value) for value in table[name]] for name in columns}
        if self._prices is not None and (prices := self._prices.prices()):
            event["shadow_price"] = [prices.get(module, 0.0) for module in table["module"]]
        self.run.append(event)

    def score(self, step: int) -> None:
        """Write how well the model does its task, and what it kept."""
        # At the end on more examples than while it trains.
        scores = self.training.data.score(self.training.model, step >= self.config.steps)
        event = {"event": "scores", "step": step, "task_score": scores.task, "retention": scores.retention}
        self._scored = event | {"skills": scores.skills} | {name: _finite(value) for name, value in scores.more.items()}
        self.run.append(self._scored)
        self.training.report(in_words(self._scored), step)

    def save(self, step: int) -> None:
        """Make what the Trainer saved a complete checkpoint, and the run's adapter."""
        path = self.run.path / "checkpoints" / f"checkpoint-{step}"
        # The Trainer's own settings as a pickle, which nothing here reads.
        (path / "training_args.bin").unlink(missing_ok=True)
        (path / "README.md").unlink(missing_ok=True)
        if (self.run.path / INITIAL_FILE).is_file():
            shutil.copyfile(self.run.path / INITIAL_FILE, path / INITIAL_FILE)
        if self._prices is not None:
            (path / PRICES).write_text(json.dumps(self._prices.state()), encoding="utf-8")
        _sync(path, self.run.path / "events.jsonl")
        (path / COMPLETE).touch()
        _sync(path)
        self._unseen = Checkpoint(step, path)
        write_adapter(self.run, self._unseen, self.training.card(*self.last_scores(), step))


def in_words(scores: Mapping[str, Any]) -> str:
    """Return scores, of an event or a card, as the command line says them: shares for a task, losses for a file."""
    if "validation_loss" in scores:
        names = ("validation_loss", "probe_loss")
        said = {name: scores[name] for name in names if name in scores}
        return ", ".join(
            f"{name.replace('_', ' ')} {'infinite' if loss is None else format(loss, '.4g')}"
            for name, loss in said.items()
        )
    return f"task score {scores['task_score']:.1%}, {scores['retention']:.1%} of the base kept"


def write_adapter(run: Run, checkpoint: Checkpoint, card: dict[str, Any]) -> None:
    """Put a checkpoint's adapter with its card where the run's adapter is read."""
    names = ("adapter_config.json", "adapter_model.safetensors", INITIAL_FILE)
    with atomic_path(run.path / RUN_ADAPTER) as draft:
        draft.mkdir()
        for name in names:
            if (checkpoint.path / name).is_file():
                shutil.copyfile(checkpoint.path / name, draft / name)
        (draft / "card.json").write_text(json.dumps(card, indent=2) + "\n", encoding="utf-8")


def keep_adapters(run: Run) -> None:
    """Leave of every checkpoint but the last the adapter alone."""
    for earlier in run.checkpoints[:-1]:
        for name in _TRAINER_FILES:
            (earlier.path / name).unlink(missing_ok=True)


def _finite(value: Any) -> float | None:
    return float(value) if value is not None and math.isfinite(value) else None


def _all_finite(model: Any) -> bool:
    import torch

    trained = [p.detach() for p in model.parameters() if p.requires_grad]
    return bool(torch.stack([torch.isfinite(p).all() for p in trained]).all())


def _sync(*paths: Path) -> None:
    """Ask the system to write files, or a folder's files and their names, to the disk now."""
    for path in paths:
        for each in (*path.iterdir(), path) if path.is_dir() else (path,):
            if os.name == "nt" and each.is_dir():
                continue
            handle = os.open(each, os.O_RDONLY)
            try:
                os.fsync(handle)
            finally:
                os.close(handle)
