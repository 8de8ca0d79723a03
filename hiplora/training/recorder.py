"""Record a run as it trains: losses at every step; measurements, scores and checkpoints at their intervals."""

import json
import math
import shutil
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from transformers import TrainerCallback

from hiplora.adapters import place
from hiplora.adapters.from_model import live_adapter
from hiplora.card import Card
from hiplora.errors import HiploraError
from hiplora.geometry import InputSpectra
from hiplora.paths import RUN_ADAPTER
from hiplora.spectrum.prepare import BaseSpectra
from hiplora.training.checkpoints import PRICES, complete, keep_adapters, write_adapter
from hiplora.training.data.tasks import TrainingData
from hiplora.training.events import Event, Layers, Recorded, Scores, Step, finite
from hiplora.training.measuring import Measuring
from hiplora.training.run import Checkpoint, Run
from hiplora.tuner import ShadowPrices, budget_penalty

if TYPE_CHECKING:
    from peft import PeftModel

_Kind = TypeVar("_Kind", bound=Recorded)


class Recorder(TrainerCallback):
    """Writes events, measurements, scores, checkpoints and the run's adapter while a `Trainer` trains.

    Args:
        run: the run to write to.
        model: the model in training.
        data: scores the model.
        spectra: spectra of the base.
        inputs: the same on the base's inputs; None where these are not observed.
        prices: shadow prices of the model's cores; None for methods without a core.
        report: called with every event.
        past: the run's events so far.
        checkpoint: the one that the run resumes from; None for a new run.
    """

    def __init__(
        self,
        run: Run,
        model: "PeftModel",
        data: TrainingData,
        spectra: BaseSpectra,
        inputs: InputSpectra | None,
        prices: ShadowPrices | None,
        report: Callable[[Event], None],
        past: Sequence[Recorded] = (),
        checkpoint: Checkpoint | None = None,
    ):
        self._run, self._config, self._model, self._data = run, run.own_config, model, data
        self._spectra, self._prices, self._report = spectra, prices, report
        settings = self._config
        self._measuring = Measuring(spectra, inputs, settings.principal_rank, settings.epsilon, settings.budget_power)
        self._last: dict[type, Any] = {type(event): event for event in past}
        step = self._last_event(Step)
        self._seconds = step.seconds if step else 0.0
        self._resumed_at = 0.0
        self._penalty = 0.0
        # A checkpoint whose loss is not known yet.
        self._unseen: Checkpoint | None = None
        if prices is not None and checkpoint is not None:
            prices.load_state(json.loads((checkpoint.path / PRICES).read_text(encoding="utf-8")))

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Score and measure the start of a new run."""
        if state.global_step == 0:
            self._score(0)
            self._measure(0)
        self._resumed_at = time.perf_counter()

    def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Keep the penalty of the coming step, which the Trainer's loss includes."""
        if self._prices is not None and self._config.budget_mode == "soft":
            with torch.no_grad():
                penalty = budget_penalty(self._model)
            self._penalty = 0.0 if penalty is None else float(penalty)

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Measure and score when due.

        Raises:
            HiploraError: a weight is not finite, or the run's folder is gone.
        """
        step = state.global_step
        self._run.require()
        trained = [parameter.detach() for parameter in self._model.parameters() if parameter.requires_grad]
        if not torch.stack([torch.isfinite(parameter).all() for parameter in trained]).all():
            raise self._diverged("no longer a number", step)
        if self._prices is not None:
            self._prices.step()
        # Measuring and scoring do not count as training time.
        self._seconds += time.perf_counter() - self._resumed_at
        if self._due(step, self._config.measure_every):
            self._measure(step)
        if self._due(step, self._config.score_every):
            self._score(step)
        self._resumed_at = time.perf_counter()

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
        """Record the loss of a step; if it is finite, the checkpoint it was computed on is good.

        Raises:
            HiploraError: the loss is not finite.
        """
        if "loss" not in logs:
            return
        loss, step = logs["loss"], state.global_step
        if not math.isfinite(loss):
            raise self._diverged(str(loss), step)
        self._unseen = None
        keep_adapters(self._run)
        self._write(
            Step(
                step=step,
                loss=loss,
                task_loss=loss - self._penalty,
                penalty=self._penalty,
                learning_rate=logs["learning_rate"],
                grad_norm=finite(logs.get("grad_norm")),
                seconds=round(self._seconds, 4),
                tokens=int(state.num_input_tokens_seen),
            )
        )

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Complete the checkpoint that the Trainer saved, and make it the run's adapter."""
        self._unseen = complete(self._run, state.global_step, self._prices)
        write_adapter(self._run, self._unseen, self.card(state.global_step))

    def card(self, step: int) -> Card:
        """Return the card of the adapter at a step: how it was made, and its latest scores and measurement."""
        config, facts = self._config, self._run.facts
        scores, layers, last = self._last_event(Scores), self._last_event(Layers), self._last_event(Step)
        assert scores is not None
        prices = layers.shadow_price if layers else None
        return Card(
            task=config.goal,
            method=config.method,
            seed=config.seed,
            steps=step,
            batch_size=config.batch_size,
            learning_rate=config.learning_rate,
            trainable_parameters=facts["trainable_parameters"],
            relative_norm=layers.total_relative_norm if layers else None,
            task_score=scores.task_score,
            skills=scores.skills,
            retention=scores.retention,
            scored_at=scores.step,
            seconds=round(last.seconds) if last else 0,
            shadow_prices=dict(zip(facts["modules"], prices, strict=True)) if prices else {},
            more=scores.more | ({"on_top": [_short(name) for name in config.on_top]} if config.on_top else {}),
        )

    def _last_event(self, kind: type[_Kind]) -> _Kind | None:
        return self._last.get(kind)

    def _write(self, event: Recorded) -> None:
        self._run.append(event)
        self._last[type(event)] = event
        self._report(event)

    def _due(self, step: int, every: int | None) -> bool:
        return step % (every or 1) == 0 or step == self._config.steps

    def _measure(self, step: int) -> None:
        """Record a measurement of every layer, and the principal share of the whole in both geometries."""
        placement = place(self._spectra.base, live_adapter(self._model, self._run.path))
        for event in self._measuring.events(step, placement, self._prices):
            self._write(event)

    def _score(self, step: int) -> None:
        """Record the task score and the retention."""
        self._write(self._data.score(self._model, step))

    def _diverged(self, loss: str, step: int) -> HiploraError:
        """Delete the last checkpoint if it led to this loss, and build the error."""
        if self._unseen is not None:
            shutil.rmtree(self._unseen.path)
            shutil.rmtree(self._run.path / RUN_ADAPTER)
            if kept := self._run.checkpoints:
                write_adapter(self._run, kept[-1], self.card(kept[-1].step))
        last = self._run.checkpoints[-1].step if self._run.checkpoints else None
        return HiploraError(
            f"The loss of {self._run.name} is {loss} at step {step}: "
            + (f"its last good checkpoint is at step {last}; " if last else "there is no good checkpoint; ")
            + "start again with a lower learning rate."
        )


class StopOnRequest(TrainerCallback):
    """Ends training with a checkpoint after the step in which a stop is requested.

    Args:
        stopped: called after every step; True requests a stop.
    """

    def __init__(self, stopped: Callable[[], bool]):
        self._stopped = stopped

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Ask."""
        if self._stopped():
            control.should_training_stop = control.should_save = True


def _short(source: str) -> str:
    """Return the name of an adapter for a card: no path of this machine, and of a run's own adapter the run's."""
    path = Path(source)
    return path.parent.name if path.name == RUN_ADAPTER else path.name
