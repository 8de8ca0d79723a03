"""Do a run: an unchanged `transformers.Trainer` whose callback writes down what happens."""

import errno
import hashlib
import math
import platform
import shutil
from collections.abc import Callable
from contextlib import ExitStack, contextmanager, suppress
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hiplora import __version__
from hiplora.adapters import INITIAL_FILE
from hiplora.errors import HiploraError
from hiplora.files import atomic_path, read_json
from hiplora.sources import BaseModel, layer_and_kind, open_base
from hiplora.sources.transformers_models import load_causal_lm, load_tokenizer
from hiplora.spectrum.prepare import BaseSpectra, resolve_device
from hiplora.training.config import RunConfig
from hiplora.training.data import Scores, load_data, require_lines
from hiplora.training.methods import Match, Method, find_method, match_parameters, peft_config
from hiplora.training.recorder import PRICES, STATES, Recorder, keep_adapters, write_adapter
from hiplora.training.records import read_texts
from hiplora.training.run import Checkpoint, Run, Status

if TYPE_CHECKING:
    from collections.abc import Iterator

    from peft import PeftModel

_UNWRITABLE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EACCES, errno.EPERM, errno.EROFS, errno.EIO)

Report = Callable[[str, int], None]
"""Called with what is being done or was found, and the optimiser steps done."""


def adapted_maps(base: BaseModel) -> dict[str, tuple[int, int]]:
    """Return `{module: (m, n)}` of what adapters are put on: the linear maps of the layers, not those at the ends."""
    return {module: base.weights[module].shape for module in base.linear_maps if layer_and_kind(module)[0] is not None}


def match_on(base: BaseModel, config: RunConfig) -> tuple[Method, Match]:
    """Return the method and the ranks that it would train with on a base.

    Raises:
        HiploraError: the base is no causal language model, does not speak the lines of the task, or a rank does not fit
            it.
    """
    architectures = base.config.get("architectures") or []
    if not any(name.endswith(("ForCausalLM", "LMHeadModel")) for name in architectures):
        raise HiploraError(
            f"{base.name} is no causal language model ({', '.join(architectures) or 'its config names none'}): choose "
            "one that continues text."
        )
    if config.task:
        require_lines(config.task, base)
    method = find_method(config.method)
    return method, match_parameters(method, adapted_maps(base), config)


def check(base: BaseModel, config: RunConfig) -> None:
    """Raise for what would fail before the first step, before a folder is made: base, ranks, data.

    Raises:
        HiploraError: as `match_on`, or a file cannot be used.
    """
    match_on(base, config)
    for path in (config.data, config.probe):
        if path:
            read_texts(path)


def train(run: Run, stopped: Callable[[], bool] = lambda: False, report: Report = lambda text, step: None) -> Run:
    """Do a run, from its last complete checkpoint where it has one: the numbers are those of one never interrupted.

    Args:
        run: from `Run.create`, or one that was stopped, failed or killed.
        stopped: asked after every step; True ends the run with a checkpoint.
        report: told what is being done, losses and scores.

    Returns:
        The run; its `status` says how it ended.

    Raises:
        HiploraError: something handed in cannot be used, the loss became NaN, the disk is full, or another process
            trains this run.
    """
    with run.exclusively(), ExitStack() as stack:
        stack.enter_context(_told(run))
        return Training(run, stopped, report, stack).go()


@contextmanager
def _told(run: Run) -> "Iterator[None]":
    """Write how a failed run failed."""
    try:
        yield
    except BaseException as error:
        problem = _sentence(run, error)
        interrupted = isinstance(error, KeyboardInterrupt)
        message = str(problem or ("Interrupted." if interrupted else f"{type(error).__name__}: {error}"))
        # On a full disk there is no last word: the lock is released, and the run counts as killed.
        with suppress(HiploraError):
            run.set_status(Status("stopped" if interrupted else "failed", "", message, run.status.device))
        if problem is not None and problem is not error:
            raise problem from error
        raise


def _sentence(run: Run, error: BaseException) -> HiploraError | None:
    """Return what a person is told of an error that is none of the program's."""
    if isinstance(error, HiploraError):
        return error
    if isinstance(error, OSError) and error.errno in _UNWRITABLE:
        return run.unwritable(error)
    name, text = type(error).__name__, str(error)
    if name == "SafetensorError" or "inline_container" in text or "file write failed" in text:
        return run.unwritable(OSError(text.splitlines()[0]))
    if name == "OutOfMemoryError":
        return HiploraError(
            f"{run.name} ran out of GPU memory: resume is of no use, start one with a smaller batch size or max length."
        )
    return None


class Training:
    """One process's part of a run."""

    def __init__(self, run: Run, stopped: Callable[[], bool], report: Report, stack: ExitStack):
        self.run, self.config = run, run.config
        self._asked, self.report, self.stack = stopped, report, stack
        self.step = 0
        self.device = ""

    def stopped(self) -> bool:
        """Whether the run was asked to end, by its caller or in its folder."""
        return self._asked() or self.run.stop_requested

    def phase(self, text: str) -> None:
        """Say what is being done, in the run's status and to the caller."""
        self.run.set_status(Status("running", text, "", self.device))
        self.report(text, self.step)

    def go(self) -> Run:
        """Do what is left of the run: see `train`."""
        run, config = self.run, self.config
        checkpoint = run.checkpoints[-1] if run.checkpoints else None
        if run.status.state == "finished":
            return run
        self.phase("Opening the base")
        base = open_base(config.base)
        self.method, self.match = match_on(base, config)
        self.device = resolve_device(config.device)
        self.phase("Loading torch and transformers")
        import torch
        from transformers import set_seed
        from transformers.utils.logging import disable_progress_bar

        disable_progress_bar()
        if config.device == "auto" and torch.cuda.is_available():
            self.device = "cuda"
        self.stack.enter_context(_threads(config.threads or 1))
        if checkpoint:
            self._check_resumable(checkpoint)
        self.phase("Loading the model")
        tokenizer = load_tokenizer(base.path)
        model = load_causal_lm(base.path)
        model.to(self.device)
        self.data = load_data(config, base, tokenizer, model)
        for note in self.data.notes:
            self.report(note, self.step)
        self.phase("Decomposing the base")
        self.spectra = BaseSpectra(base, device=config.device)
        weights = [base.weights[module] for module in self.match.ranks]
        for progress in self.spectra.prepare(weights, config.principal_rank, self.stopped):
            self.phase(f"Decomposing the base: {progress.done} of {progress.total} weights")
        if self.stopped():
            run.set_status(Status("stopped", "", "Stopped before the first step.", self.device))
            return run
        self._note_origin(base)
        self.phase("Putting the adapter on")
        set_seed(config.seed)
        self.model = self._adapted(model, checkpoint)
        last = run.rewind(checkpoint.step if checkpoint else -1)
        self._check_room()
        recorder = Recorder(self, last, checkpoint)
        trainer = self._trainer(recorder, torch)
        if checkpoint and checkpoint.step >= config.steps:
            # Only its last words are missing.
            done = checkpoint.step
        else:
            self.phase("Training")
            trainer.train(resume_from_checkpoint=str(checkpoint.path) if checkpoint else None)
            done = trainer.state.global_step
        if done < config.steps:
            run.set_status(Status("stopped", "", f"Stopped at step {done} of {config.steps}.", self.device))
            return run
        write_adapter(run, run.checkpoints[-1], self.card(*recorder.last_scores(), done))
        keep_adapters(run)
        run.set_status(Status("finished", "", "", self.device))
        return run

    def _check_resumable(self, checkpoint: Checkpoint) -> None:
        """Raise before anything is changed when a checkpoint lacks what training needs to go on.

        Raises:
            HiploraError: a file is missing or damaged.
        """
        import torch
        from transformers.trainer_pt_utils import safe_globals

        wanted = [*STATES, "trainer_state.json", *([PRICES] if self.config.method == "hiplora" else [])]
        for name in wanted:
            path = checkpoint.path / name
            try:
                if name in STATES:
                    with safe_globals():
                        torch.load(path, map_location="cpu", weights_only=True)
                else:
                    read_json(path)
            except Exception as error:
                raise HiploraError(
                    f"{path} is missing or damaged, and training cannot go on without it ({type(error).__name__}): "
                    "start a new run."
                ) from None

    def _note_origin(self, base: BaseModel) -> None:
        """Write what the run is of, and raise when it goes on with other weights or other data.

        Raises:
            HiploraError: the base, the data or the probe have changed since the run began.
        """
        hashes = [self.spectra.weight_hash(base.weights[module]) for module in self.match.ranks]
        found = {"base": hashlib.sha256("".join(hashes).encode()).hexdigest()}
        for name in ("data", "probe"):
            if path := getattr(self.config, name):
                with Path(path).open("rb") as file:
                    found[name] = hashlib.file_digest(file, "sha256").hexdigest()
        before = self.run.facts.get("sha256")
        if before is not None and before != found:
            changed = next(name for name in found if before.get(name) != found[name])
            raise HiploraError(
                f"The {changed} of {self.run.name} has changed since the run began ({getattr(self.config, changed)}): "
                "put back what it was, or start a new run."
            )
        self.run.note(sha256=found)

    def _adapted(self, model: Any, checkpoint: Checkpoint | None) -> "PeftModel":
        from peft import get_peft_model, get_peft_model_state_dict
        from safetensors.torch import load_file, save_file

        left_alone = [module for module in self.spectra.base.linear_maps if module not in self.match.ranks]
        adapted = get_peft_model(model, peft_config(self.method, self.match, self.config, left_alone))
        self.parameters = sum(p.numel() for p in adapted.parameters() if p.requires_grad)
        config = adapted.peft_config[adapted.active_adapter]
        if str(getattr(config, "init_lora_weights", "")).startswith("pissa"):
            import torch

            path = self.run.path / INITIAL_FILE
            state = {k: v.cpu().contiguous() for k, v in get_peft_model_state_dict(adapted).items()}
            if checkpoint is None:
                with atomic_path(path) as draft:
                    save_file(state, draft, {"format": "pt"})
            elif any(not torch.equal(state[key], value) for key, value in load_file(path).items()):
                raise HiploraError(
                    f"{self.run.name} cannot go on here: this machine decomposes the base differently in the last "
                    "digits, and PiSSA's checkpoint fits no other start. Resume it where it was started."
                )
        self.run.note(
            versions={"hiplora": __version__} | {name: version(name) for name in ("torch", "transformers", "peft")},
            python=platform.python_version(),
            modules=list(self.match.ranks),
            trainable_parameters=self.parameters,
            matched_to=self.match.reference,
        )
        return adapted

    def _check_room(self) -> None:
        """Raise before the first step rather than at the first checkpoint when the disk is too full for one."""
        trained = sum(p.numel() * p.element_size() for p in self.model.parameters() if p.requires_grad)
        held = sum(b.numel() * b.element_size() for n, b in self.model.named_buffers() if "hiplora" in n)
        # Two checkpoints with Adam's two moments, and of every other one the adapter, beside the run's own.
        needed = 4 * trained + (trained + held) * (3 + self.config.steps // (self.config.save_every or 1))
        free = shutil.disk_usage(self.run.path).free
        if free < needed:
            raise HiploraError(
                f"{self.run.path} has room for {free / 1e6:.0f} MB and needs {needed / 1e6:.0f} MB: "
                "make room, or choose another folder."
            )

    def _trainer(self, recorder: Any, torch: Any) -> Any:
        from peft.optimizers import create_loraplus_optimizer
        from transformers import PrinterCallback, Trainer, TrainingArguments

        config, on_gpu = self.config, self.device.startswith("cuda")
        optimizer, ratio = None, self.method.learning_rate_ratio
        if ratio != 1:
            optimizer = create_loraplus_optimizer(
                self.model,
                torch.optim.AdamW,
                lr=(config.learning_rate or 0.0) / math.sqrt(ratio),
                loraplus_lr_ratio=ratio,
                weight_decay=config.weight_decay,
            )
        arguments = TrainingArguments(
            output_dir=str(self.run.path / "checkpoints"),
            max_steps=config.steps,
            per_device_train_batch_size=config.batch_size,
            learning_rate=config.learning_rate or 0.0,
            warmup_steps=config.warmup_steps,
            lr_scheduler_type="cosine",
            weight_decay=config.weight_decay,
            seed=config.seed,
            data_seed=config.seed,
            use_cpu=not on_gpu,
            bf16=on_gpu,
            dataloader_pin_memory=on_gpu,
            remove_unused_columns=False,
            logging_steps=1,
            logging_nan_inf_filter=False,
            save_steps=config.save_every,
            include_num_input_tokens_seen="all",
            report_to="none",
            disable_tqdm=True,
        )
        # One device: of several that it sees the Trainer would make one batch each.
        _ = arguments.device
        arguments._n_gpu = min(arguments.n_gpu, 1)
        trainer = Trainer(
            model=self.model,
            args=arguments,
            train_dataset=self.data.dataset,
            data_collator=self.data.collator,
            optimizers=(optimizer, None),
            callbacks=[recorder.callback()],
        )
        trainer.pop_callback(PrinterCallback)
        return trainer

    def card(self, scores: Scores, scored_at: int, step: int) -> dict[str, Any]:
        """Return what stands beside an adapter: how it was made and what it scored, at which step."""
        config, events = self.config, self.run.events()
        layers: dict[str, Any] = next((event for event in reversed(events) if event["event"] == "layers"), {})
        seconds = next((event["seconds"] for event in reversed(events) if event["event"] == "step"), 0.0)
        card = {
            "task": config.goal,
            "method": config.method,
            "seed": config.seed,
            "steps": step,
            "batch_size": config.batch_size,
            "learning_rate": config.learning_rate,
            "trainable_parameters": self.parameters,
            "relative_norm": layers.get("total_relative_norm"),
            "task_score": scores.task,
            "skills": scores.skills,
            "retention": scores.retention,
            "scored_at": scored_at,
            "seconds": round(seconds),
            **scores.more,
        }
        if layers.get("shadow_price"):
            card["shadow_prices"] = dict(zip(self.match.ranks, layers["shadow_price"], strict=True))
        return card


@contextmanager
def _threads(count: int) -> "Iterator[None]":
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
