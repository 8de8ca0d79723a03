"""A callback that watches any PEFT training in `transformers.Trainer`, or in a trainer derived from it."""

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from transformers import TrainerCallback

from hiplora.training.spectral import SpectralRecorder

if TYPE_CHECKING:
    from transformers import Trainer


class SpectralCallback(TrainerCallback):
    """Writes a run folder while a Trainer trains a PEFT model: pages Train and Compare show it live.

    It takes one line::

        Trainer(model, args, train_dataset=data, callbacks=[hiplora.SpectralCallback(run="my-run")])

    Losses come as often as the Trainer logs them (`logging_steps`), checkpoints as often as it saves, and *Stop* on
    page Train ends the training after the step, with a checkpoint. A training that goes on from a checkpoint of the
    Trainer's goes on with the run of the same name. What is measured is added to the Trainer's `log_history`; with
    `attach` it also goes to all that `report_to` names.

    Args:
        run: name of the run, or a folder with a separator in it; made of base and method by default.
        every: steps between two measurements.
        k: principal rank.
        geometry: `weights`, or `inputs` to measure the principal share on the base's inputs too, which
            `hiplora calibrate` has observed.
        base: where the base's weights lie, as for `hiplora.open`; by default what the model was loaded from.
        text: whose inputs, where it is not the calibration that the base has by default.
        epsilon: budget for modules whose adapter states none, and so what tightness is relative to.

    Attributes:
        recorder: the `SpectralRecorder` of the training that began last; None before the first.
    """

    def __init__(
        self,
        run: str | Path | None = None,
        *,
        every: int = 50,
        k: int = 16,
        geometry: Literal["weights", "inputs"] = "weights",
        base: str | Path | None = None,
        text: str | Path | None = None,
        epsilon: float = 0.05,
    ):
        self.recorder: SpectralRecorder | None = None
        self._settings: dict[str, Any] = {
            "run": run, "every": every, "k": k, "geometry": geometry, "base": base, "text": text, "epsilon": epsilon,
        }  # fmt: skip
        self._trainer: Trainer | None = None

    def attach(self, trainer: "Trainer") -> "SpectralCallback":
        """Add this callback to a trainer, and give what it measures to the trainer's loggers too; return the callback.

        Args:
            trainer: that trains a PEFT model.
        """
        if self not in trainer.callback_handler.callbacks:
            trainer.add_callback(self)
        self._trainer = trainer
        return self

    def on_train_begin(self, args: Any, state: Any, control: Any, model: Any = None, **_: Any) -> None:
        """Check everything, and measure the start.

        Raises:
            HiploraError: as `SpectralRecorder`.
        """
        if self.recorder is not None:
            self.recorder.drop()
        self.recorder = SpectralRecorder(model, steps=state.max_steps, start=state.global_step, **self._settings)

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Measure when due, and pass a request to stop on."""
        if self.recorder is None:
            return
        if scalars := self.recorder.record(state.global_step):
            self._log(args, state, control, scalars)
        if self.recorder.stop_requested:
            control.should_training_stop = control.should_save = True

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
        """Record the loss."""
        if self.recorder is not None and "loss" in (logs or {}):
            self.recorder.record(
                state.global_step,
                logs["loss"],
                learning_rate=logs.get("learning_rate"),
                grad_norm=logs.get("grad_norm"),
                # TRL counts them itself.
                tokens=int(state.num_input_tokens_seen or logs.get("num_tokens", 0)),
            )

    def on_evaluate(
        self, args: Any, state: Any, control: Any, metrics: Any = None, model: Any = None, **_: Any
    ) -> None:
        """Record the held-out loss of a causal language model."""
        if self.recorder is None:
            return
        loss = (metrics or {}).get("eval_loss")
        if isinstance(loss, float) and self.recorder.predicts_tokens:
            self.recorder.score(state.global_step, loss)
        self.recorder.leave_out()

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Save the adapter in the run's folder too."""
        if self.recorder is not None:
            self.recorder.save()

    def on_train_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Measure and save the last step."""
        if self.recorder is not None:
            self.recorder.close()

    def _log(self, args: Any, state: Any, control: Any, scalars: dict[str, float]) -> None:
        """Give what was measured to the trainer's history and its loggers, as its own `log` does."""
        state.log_history.append({**scalars, "epoch": state.epoch, "step": state.global_step})
        if self._trainer is not None:
            # Its `log` would be that of a subclass, which may empty what it has gathered for its own next line.
            due = control.should_log
            self._trainer.callback_handler.on_log(args, state, control, dict(scalars))
            control.should_log = due
