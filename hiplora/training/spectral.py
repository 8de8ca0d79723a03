"""Watch a training that another script runs: its run folder is written as if it had been started here."""

import copy
import math
import platform
import shutil
import tempfile
import time
import warnings
import weakref
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from importlib.metadata import version
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal

from hiplora import __version__
from hiplora.adapters import INITIAL_FILE, Placement, place
from hiplora.adapters.from_model import adapter_state, live_adapter
from hiplora.adapters.initialized import INITIALIZATIONS
from hiplora.adapters.locate import ADAPTER_FILE
from hiplora.card import Card
from hiplora.errors import HiploraError
from hiplora.files import atomic_path
from hiplora.geometry import InputSpectra
from hiplora.settings import COUNT
from hiplora.sources import PEFT_PREFIX, open_base
from hiplora.spectrum.prepare import BaseSpectra
from hiplora.training.checkpoints import complete, write_adapter
from hiplora.training.events import Drift, Layers, Scores, Step, finite
from hiplora.training.measuring import Measuring
from hiplora.training.processes import from_first, is_first, require_whole, several
from hiplora.training.run import Run, Status
from hiplora.training.watchable import base_of, observed, peft_model, require_rank, require_same, run_of, sample_of
from hiplora.training.watched import WatchedConfig

if TYPE_CHECKING:
    import torch
    from peft import PeftModel

    from hiplora.tuner import ShadowPrices

_ASK_EVERY = 10
"""Steps between two times at which several processes agree on whether to stop."""
_BASE_CHANGED = (*INITIALIZATIONS, "loftq")
"""Initializations that change the base in memory, so that it cannot be compared with the one on disk."""


class SpectralRecorder:
    """Writes a run folder while a loop of your own trains a PEFT model: pages Train and Compare show it live.

    Two calls go into the loop: `record` after each optimizer step, `close` after the last. As a context manager it
    closes itself, and says so where the loop raised::

        watch = hiplora.SpectralRecorder(model, steps=1000, run="my-run")
        for step, batch in enumerate(loader, start=1):
            ...
            watch.record(step, loss=loss)
        watch.close()

    Once it exists, it never ends the training: where it cannot go on, because the disk is full or a weight is not
    finite, it warns once and records no more. Only the factors of the adapter are read at a measurement; a method whose
    update is not of low rank (DoRA) reads the weights of the base too, and takes longer.

    Of several processes that train together, all make one and make the same calls; the first one writes. Parameters
    sharded by FSDP2 are put together for each measurement.

    Args:
        model: a `PeftModel`, prepared for training or not, before its first step.
        steps: optimizer steps in all.
        run: name of the run, or a folder with a separator in it; made of base and method by default.
        every: steps between two measurements.
        k: principal rank.
        geometry: `weights`, or `inputs` to measure the principal share on the base's inputs too, which
            `hiplora calibrate` has observed.
        base: where the base's weights lie, as for `hiplora.open`; by default what the model was loaded from.
        text: whose inputs, where it is not the calibration that the base has by default.
        epsilon: budget for modules whose adapter states none, and so what tightness is relative to.
        start: optimizer steps done before; above 0 the run of this name goes on from there.

    Attributes:
        run: the run's folder; None in all processes but the first.
        seconds: training time so far, in seconds.
        own_seconds: time that was spent here since training began, in seconds.

    Raises:
        HiploraError: the model is not a PEFT model with one active adapter, its base was not found or has other
            weights, `k` is larger than a weight, its inputs are not observed, it is sharded by FSDP1 or ZeRO-3, or the
            run's name is taken.
    """

    def __init__(
        self,
        model: Any,
        *,
        steps: int,
        run: str | Path | None = None,
        every: int = 50,
        k: int = 16,
        geometry: Literal["weights", "inputs"] = "weights",
        base: str | Path | None = None,
        text: str | Path | None = None,
        epsilon: float = 0.05,
        start: int = 0,
    ):
        for name, value in (("steps", steps), ("every", every), ("k", k)):
            COUNT.require(name, value)
        self.run: Run | None = None
        self.seconds = self.own_seconds = 0.0
        self._step = self._measured = start
        self._steps, self._every = steps, every
        self._stop, self._closed, self._saved = False, False, -1
        # The run while it is written: in the first process, until it is closed or cannot be written.
        self._writing: Run | None = None
        self._release = ExitStack()
        self._prices: ShadowPrices | None = None
        self._layers: Layers | None = None
        self._scalars: dict[str, float] = {}
        # Before anything is unwrapped, since FSDP1 is a wrapper.
        require_whole(model)
        self._model = peft_model(model)
        self._device = next(self._model.parameters()).device.type
        self._penalty = _Penalty(self._model)
        state, sample = adapter_state(self._model), sample_of(self._model)
        problem: str | None = None
        try:
            if is_first():
                self._open(run, base or base_of(self._model), (k, epsilon, geometry, text), state, sample, start)
        except BaseException as error:
            self._discard(started=start > 0)
            if not isinstance(error, HiploraError):
                raise
            problem = str(error)
        # Otherwise the other processes would wait for one that has given up.
        problem = from_first(problem)
        if problem is not None:
            raise HiploraError(problem)
        self._since = time.perf_counter()

    def _open(
        self,
        run: str | Path | None,
        where: str | Path,
        how: tuple[int, float, Literal["weights", "inputs"], str | Path | None],
        state: "dict[str, torch.Tensor]",
        sample: "dict[str, torch.Tensor]",
        start: int,
    ) -> None:
        """Check everything, make the folder, decompose the base, and measure the start."""
        k, epsilon, geometry, text = how
        opened = open_base(where)
        config = self._model.peft_config[self._model.active_adapter]
        changed = str(getattr(config, "init_lora_weights", "")).lower().startswith(_BASE_CHANGED)
        if not changed:
            require_same(opened, sample)
        with tempfile.TemporaryDirectory() as folder:
            if changed and start == 0:
                _write_tensors(state, Path(folder) / INITIAL_FILE)
            update = live_adapter(self._model, Path(folder), state)
            self._whole = {name for name in update.modules if update.whole(name) is not None}
            placement = place(opened, update)
        self._names = {module: name for module, name in placement.names.items() if name not in self._whole}
        self._places = {module: placement.places[module] for module in self._names}
        weights = list(self._places.values())
        require_rank(weights, k)
        spectra = BaseSpectra(opened)
        calibration = observed(spectra, weights, text) if geometry == "inputs" else None
        settings = WatchedConfig(
            base=str(where), method=update.method, steps=self._steps, principal_rank=k, epsilon=epsilon,
            budget_power=getattr(config, "budget_power", 1.0), measure_every=self._every, geometry=geometry,
            text=None if text is None else str(text),
        )  # fmt: skip
        self.run = self._writing = run_of(run, settings, list(self._places), start)
        self._release.enter_context(self.run.exclusively())
        # If the script ends without `close`, or the recorder is dropped.
        self._finalizer = weakref.finalize(self, _left_open, self.run, self._release.close)
        if changed and start == 0:
            _write_tensors(state, self.run.path / INITIAL_FILE)
        for progress in spectra.prepare(weights, k):
            self._phase(f"Decomposing the base: {progress.done} of {progress.total} weights")
        inputs = None
        if calibration is not None:
            inputs = InputSpectra(spectra, calibration)
            for progress in inputs.prepare(weights, k):
                self._phase(f"Decomposing the base on its inputs: {progress.done} of {progress.total} weights")
        self._measuring = Measuring(spectra, inputs, k, epsilon, settings.budget_power)
        self._base = opened
        self._trained = sum(p.numel() for p in self._model.parameters() if p.requires_grad)
        self.run.record_facts(
            versions={"hiplora": __version__} | {name: version(name) for name in ("torch", "transformers", "peft")},
            python=platform.python_version(),
            modules=list(self._places),
            trainable_parameters=self._trained,
        )
        # A process has the gradients of its own batch only.
        self._prices = None if several() else _prices_of(self._model)
        past = self.run.rewind(start) if start else []
        self.seconds = max((event.seconds for event in past if isinstance(event, Step)), default=0.0)
        if not any(isinstance(event, Layers) for event in past):
            self._measure(start, state)
        self._phase("Training")

    def record(
        self,
        step: int,
        loss: "float | torch.Tensor | None" = None,
        *,
        learning_rate: float | None = None,
        grad_norm: "float | torch.Tensor | None" = None,
        tokens: int = 0,
    ) -> dict[str, float]:
        """Record an optimizer step, and measure the update where it is due; call it in all processes.

        Args:
            step: optimizer steps done, from 1, counted over all epochs.
            loss: of this step, or the mean since the last that was given; None where it is not known.
            learning_rate: at this step.
            grad_norm: over all trained parameters.
            tokens: seen so far.

        Returns:
            What was measured at this step, as scalars by name; empty where none was due.
        """
        if self._closed:
            return {}
        begun = time.perf_counter()
        self.seconds += begun - self._since
        before, self._step, self._scalars = self._step, step, {}
        if new := step != before:
            self._penalty.step()
            if self._prices is not None:
                self._prices.step()
        due = new and step % self._every == 0
        # In all processes, whether or not the first one still records: the parts are put together here.
        state = adapter_state(self._model) if due else None
        with self._guarded():
            if step < before:
                raise HiploraError(f"Step {step} came after step {before}: count the steps over all epochs.")
            if loss is not None:
                self._write_step(_number(loss), learning_rate, grad_norm, tokens)
            if state is not None:
                self._measure(step, state)
        if new and (due or not several() or step % _ASK_EVERY == 0):
            self._stop = from_first(self._writing is not None and self._writing.stop_requested)
        self._since = time.perf_counter()
        self.own_seconds += self._since - begun
        return self._scalars

    def score(self, step: int, loss: float) -> None:
        """Record a held-out loss: the mean cross-entropy of the next token, in nats.

        Args:
            step: optimizer steps done.
            loss: the mean.
        """
        with self._guarded():
            if self._writing is not None and math.isfinite(loss):
                self._writing.append(Scores(step, math.exp(-loss), None, {}, {"validation_loss": loss}))

    def save(self) -> None:
        """Save the adapter as it is now as a checkpoint of the run; call it in all processes."""
        if self._closed or self._saved == self._step:
            return
        begun = time.perf_counter()
        state, self._saved = adapter_state(self._model), self._step
        with self._guarded():
            if self._writing is not None:
                self._save(self._writing, state)
        self._since = time.perf_counter()
        self.own_seconds += self._since - begun

    def leave_out(self) -> None:
        """Leave the time since the last call out of the training time, such as that of an evaluation."""
        self._since = time.perf_counter()

    @property
    def predicts_tokens(self) -> bool:
        """Whether the model is a causal language model, whose held-out loss is one of tokens."""
        return type(self._model.get_base_model()).__name__.endswith(("ForCausalLM", "LMHeadModel"))

    @property
    def stop_requested(self) -> bool:
        """Whether a stop was requested on page Train; of several processes, all see it at the same step."""
        return self._stop

    def close(self) -> None:
        """Measure and save the last step, and end the run; call it in all processes."""
        if self._closed:
            return
        state = adapter_state(self._model) if self._measured != self._step else None
        with self._guarded():
            if state is not None:
                self._measure(self._step, state)
        self.save()
        self._closed = True
        stopped = self._stop and self._step < self._steps
        message = f"Stopped at step {self._step} of {self._steps}." if stopped else ""
        self._end(Status("stopped" if stopped else "finished", "", message, self._device))

    def drop(self) -> None:
        """Let go of the run as it is; one that is not closed counts as stopped."""
        self._closed = True
        if self._writing is not None:
            self._writing = None
            self._finalizer()

    def __enter__(self) -> "SpectralRecorder":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        if error is None:
            self.close()
            return
        self._closed = True
        interrupted = isinstance(error, KeyboardInterrupt)
        message = "Interrupted." if interrupted else f"{type(error).__name__}: {error}"
        self._end(Status("stopped" if interrupted else "failed", "", message, self._device))

    @property
    def cost(self) -> float:
        """The time spent here since the first step, as a share of the training time."""
        return self.own_seconds / self.seconds if self.seconds else 0.0

    @contextmanager
    def _guarded(self) -> Iterator[None]:
        """Turn any error into a warning and the end of the record: watching must not end a training."""
        try:
            yield
        except Exception as error:
            if self._writing is None:
                return
            message = str(error) if isinstance(error, HiploraError) else f"{type(error).__name__}: {error}"
            name = self._writing.name
            self._end(Status("failed", "", message, self._device))
            warnings.warn(f"{name} is not recorded any more, while its training goes on: {message}", stacklevel=4)

    def _end(self, status: Status) -> None:
        """Write how the run ended, and let go of it."""
        if self._prices is not None:
            self._prices.close()
            self._prices = None
        if (run := self._writing) is not None:
            self._writing = None
            with suppress(HiploraError, OSError):
                run.record_facts(own_seconds=round(self.own_seconds, 3))
                run.set_status(status)
            self._finalizer.detach()
            self._release.close()

    def _discard(self, *, started: bool) -> None:
        """Leave nothing of a run that could not begin."""
        if (run := self._writing) is not None:
            self._end(Status("stopped", "", "Stopped before the next step.", self._device))
            if not started:
                shutil.rmtree(run.path, ignore_errors=True)
            self.run = None

    def _phase(self, text: str) -> None:
        if self._writing is not None:
            self._writing.set_status(Status("running", text, "", self._device, self._step))

    def _write_step(
        self, loss: float, learning_rate: float | None, grad_norm: "float | torch.Tensor | None", tokens: int
    ) -> None:
        penalty = self._penalty.mean()
        if self._writing is None:
            return
        if not math.isfinite(loss):
            raise HiploraError(f"The loss is {loss} at step {self._step}.")
        self._writing.append(
            Step(
                step=self._step,
                loss=loss,
                task_loss=loss - penalty,
                penalty=penalty,
                learning_rate=finite(learning_rate),
                grad_norm=None if grad_norm is None else finite(_number(grad_norm)),
                seconds=round(self.seconds, 4),
                tokens=tokens,
            )
        )

    def _measure(self, step: int, state: "dict[str, torch.Tensor]") -> None:
        self._measured = step
        if self._writing is None:
            return
        # Weights that are trained whole are not measured: each would be read, and compared with the base's.
        skipped = {f"{PEFT_PREFIX}{name}.weight" for name in self._whole}
        read = {key: value for key, value in state.items() if key not in skipped}
        update = live_adapter(self._model, self._writing.path, read)
        placement = Placement(self._base, update, self._names, self._places)
        for event in self._measuring.events(step, placement, self._prices):
            self._writing.append(event)
            if isinstance(event, Layers):
                self._layers = event
            self._scalars |= _scalars(event)

    def _save(self, run: Run, state: "dict[str, torch.Tensor]") -> None:
        config = copy.copy(self._model.peft_config[self._model.active_adapter])
        config.inference_mode = True
        with atomic_path(run.path / "checkpoints" / f"checkpoint-{self._step}") as draft:
            draft.mkdir()
            config.save_pretrained(str(draft))
            _write_tensors(state, draft / ADAPTER_FILE)
        checkpoint = complete(run, self._step, None)
        card = Card(
            steps=self._step,
            trainable_parameters=self._trained,
            relative_norm=self._layers.total_relative_norm if self._layers else None,
            seconds=round(self.seconds),
        )
        write_adapter(run, checkpoint, card)


def _left_open(run: Run, release: Callable[[], None]) -> None:
    """Say how a run ended whose recorder was dropped, or whose script ended."""
    with suppress(HiploraError, OSError):
        if run.status.state == "running":
            run.set_status(Status("stopped", "", "The script ended before the last step.", run.status.device))
    release()


class _Penalty:
    """The mean penalty of a soft budget over the steps since it was last asked for, which the model's loss includes."""

    def __init__(self, model: "PeftModel"):
        config = model.peft_config[model.active_adapter]
        self._model, self._sum, self._count = model, None, 0
        self._there = config.peft_type == "HIPLORA" and getattr(config, "budget_mode", "") == "soft"
        if self._there and any(hasattr(parameter, "full_tensor") for parameter in model.parameters()):
            raise HiploraError(
                "With FSDP the penalty of HiP-LoRA's soft budget cannot be told from the loss: use budget_mode='hard'."
            )
        self._next = self._now()

    def step(self) -> None:
        """Count the penalty that this step's loss had."""
        if self._there:
            self._sum = self._next if self._sum is None else self._sum + self._next
            self._count += 1
            self._next = self._now()

    def mean(self) -> float:
        """Return the mean, and start again."""
        found = 0.0 if self._sum is None else float(self._sum) / self._count
        self._sum, self._count = None, 0
        return found

    def _now(self) -> Any:
        import torch

        from hiplora.tuner import budget_penalty

        if not self._there:
            return 0.0
        with torch.no_grad():
            penalty = budget_penalty(self._model)
        return 0.0 if penalty is None else penalty


def _prices_of(model: "PeftModel") -> "ShadowPrices | None":
    """Return a recorder of the shadow prices of a model with cores; None for any other."""
    from hiplora.tuner import HipLoraLayer, ShadowPrices

    has_core = any(isinstance(module, HipLoraLayer) for module in model.modules())
    return ShadowPrices(model) if has_core else None


def _number(value: "float | torch.Tensor") -> float:
    return float(value.detach()) if hasattr(value, "detach") else float(value)


def _write_tensors(state: "dict[str, torch.Tensor]", path: Path) -> None:
    from safetensors.torch import save_file

    # Tensors that share memory are refused there.
    save_file({key: value.detach().cpu().contiguous().clone() for key, value in state.items()}, path, {"format": "pt"})


def _scalars(event: Layers | Drift) -> dict[str, float]:
    """Return what loggers get of a measurement."""
    if isinstance(event, Layers):
        tightest = max((value for value in event.tightness if value is not None), default=math.nan)
        return {"hiplora/relative_norm": event.total_relative_norm, "hiplora/tightness_max": tightest}
    where = "hiplora" if event.geometry == "weights" else "hiplora/inputs"
    return {f"{where}/principal_share": event.pp, f"{where}/enrichment": event.enrichment}
