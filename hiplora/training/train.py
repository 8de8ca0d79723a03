"""Run training with an unchanged `transformers.Trainer`, recording progress in the run's folder."""

import errno
import hashlib
import math
import platform
import re
import shutil
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager, suppress
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hiplora import __version__
from hiplora.adapters import INITIAL_FILE, read_adapter
from hiplora.errors import HiploraError
from hiplora.files import atomic_path, hash_of
from hiplora.geometry import read_text
from hiplora.settings import HipLoraSettings
from hiplora.sources import BaseModel, layer_and_kind, open_base
from hiplora.sources.transformers_models import load_causal_lm, load_tokenizer, outline_causal_lm
from hiplora.spectrum.prepare import BaseSpectra, resolve_device
from hiplora.training.checkpoints import keep_adapters, require_resumable, write_adapter
from hiplora.training.config import RunConfig
from hiplora.training.data.files import read_texts
from hiplora.training.data.tasks import TrainingData, load_data, require_demo_base
from hiplora.training.events import Caveat, Event, Phase
from hiplora.training.inputs import as_at_the_start, prepare_inputs
from hiplora.training.methods import Match, Method, find_method, match_parameters
from hiplora.training.on_top import add_updates, digest_of, earlier_updates, within_what_is_left
from hiplora.training.run import Run, Status

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedModel, Trainer

_UNWRITABLE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EACCES, errno.EPERM, errno.EROFS, errno.EIO)
_LISTED = 6
_NUMBER = re.compile(r"(?<=\.)\d+(?=\.)|(?<=\[)\d+(?=\])")


def adapted_maps(base: BaseModel) -> dict[str, tuple[int, int]]:
    """Return `{module: (m, n)}` of the maps to adapt: the linear maps in numbered layers."""
    return {module: base.weights[module].shape for module in base.linear_maps if layer_and_kind(module)[0] is not None}


def _reasons_left_out(base: BaseModel, config: RunConfig, model: "PreTrainedModel | None" = None) -> dict[str, str]:
    """Return `{module: reason}` of the maps that every method leaves alone, so that all adapt the same ones.

    Args:
        base: the base.
        config: `r`, and the `k` with which each map is measured as it trains.
        model: the base in memory or its outline, to leave out also what PEFT cannot adapt in it.
    """
    limit = max(("r", config.r), ("k", config.principal_rank), key=lambda pair: float(pair[1]))
    found = {
        module: f"smaller than {limit[0]}={limit[1]}"
        for module, shape in adapted_maps(base).items()
        if min(shape) < float(limit[1])
    }
    return found | (_not_adaptable(adapted_maps(base), model) if model is not None else {})


def _not_adaptable(maps: Iterable[str], model: "PreTrainedModel") -> dict[str, str]:
    """Return `{module: reason}` of the maps that PEFT does not adapt in a model."""
    import torch
    from peft import LoraConfig
    from peft.tuners.tuners_utils import _check_lora_target_modules_mamba
    from transformers.pytorch_utils import Conv1D

    modules, config = dict(model.named_modules()), LoraConfig()
    found = {}
    for module in maps:
        if not isinstance(modules.get(module), torch.nn.Linear | Conv1D):
            found[module] = "not a linear layer of the model in memory"
            continue
        try:
            _check_lora_target_modules_mamba(config, model, module.rpartition(".")[2])
        except ValueError:
            found[module] = "not adaptable in this architecture, says PEFT"
    return found


def _note_left_out(reasons: Mapping[str, str]) -> str:
    """Return one sentence on the maps that are not adapted, by kind."""
    kinds = Counter((_NUMBER.sub("*", layer_and_kind(module)[1]), reason) for module, reason in reasons.items())
    listed = [f"{kind} ({count} map{'s' * (count > 1)}, {reason})" for (kind, reason), count in kinds.items()]
    more = f"; and {len(listed) - _LISTED} more kinds" if len(listed) > _LISTED else ""
    return f"Not adapted: {'; '.join(listed[:_LISTED])}{more}."


def match_on(base: BaseModel, config: RunConfig, model: "PreTrainedModel | None" = None) -> tuple[Method, Match]:
    """Return the method and the ranks it trains with on a base.

    Args:
        base: the base.
        config: the run's settings.
        model: the base in memory or its outline; without it, which needs no torch, all maps on disk that are large
            enough are taken to be adaptable.

    Raises:
        HiploraError: the base is not a causal language model, was not trained on the demo world, or is too small
            for a rank.
    """
    stated = base.config.get("architectures")
    architectures = [name for name in stated if isinstance(name, str)] if isinstance(stated, list) else []
    if not any(name.endswith(("ForCausalLM", "LMHeadModel")) for name in architectures):
        raise HiploraError(
            f"{base.name} is not a causal language model ({', '.join(architectures) or 'none in its config'}): "
            "choose one that generates text."
        )
    if config.task:
        require_demo_base(config.task, base)
    method, maps = find_method(config.method), adapted_maps(base)
    left_out = _reasons_left_out(base, config, model)
    if model is not None and not maps.keys() - _not_adaptable(maps, model).keys():
        raise HiploraError(
            f"{base.name} has no linear map in a numbered layer that PEFT can adapt: choose another base."
        )
    # If nothing is large enough, the error names the map that is too small.
    kept = {module: shape for module, shape in maps.items() if module not in left_out} or maps
    return method, match_parameters(method, kept, config)


def check(base: BaseModel, config: RunConfig) -> None:
    """Check base, ranks and data before a folder is created.

    Raises:
        HiploraError: as `match_on`, or a file cannot be used.
    """
    match_on(base, config)
    match_on(base, config, outline_causal_lm(base.path))
    for path in (config.data, config.probe):
        if path:
            read_texts(path)
    if config.text:
        read_text(config.text)
    if config.on_top:
        earlier_updates(base, config)


def train(
    run: Run, stopped: Callable[[], bool] = lambda: False, report: Callable[[Event], None] = lambda event: None
) -> Run:
    """Train a run, from its last complete checkpoint if it has one; the numbers equal those of an uninterrupted run.

    Args:
        run: from `Run.create`, or one that was stopped, failed or killed.
        stopped: called after every step; True ends the run with a checkpoint.
        report: called with every event.

    Returns:
        The run; its `status` says how it ended.

    Raises:
        HiploraError: the base or data cannot be used, the loss became NaN, the disk is full, or another process
            is training this run.
    """
    # Before anything of the run changes: one that another script trains is refused.
    _ = run.own_config
    with run.exclusively(), _failure_recorded(run), ExitStack() as stack:
        if run.status.state != "finished":
            _train(run, lambda: stopped() or run.stop_requested, report, stack)
    return run


def _train(run: Run, stopped: Callable[[], bool], report: Callable[[Event], None], stack: ExitStack) -> None:
    """Train the rest of a run; `stack` restores the state of the process at the end."""
    config, device = run.own_config, ""
    checkpoint = run.checkpoints[-1] if run.checkpoints else None

    def phase(text: str) -> None:
        run.set_status(Status("running", text, "", device, checkpoint.step if checkpoint else 0))
        report(Phase(text))

    phase("Opening the base")
    base = open_base(config.base)
    method, match = match_on(base, config)
    device = resolve_device(config.device)
    phase("Loading torch and transformers")
    import torch
    from transformers import set_seed
    from transformers.utils.logging import disable_progress_bar

    from hiplora.training.recorder import Recorder, StopOnRequest
    from hiplora.tuner import ShadowPrices, observe_inputs

    disable_progress_bar()
    if config.device == "auto" and torch.cuda.is_available():
        device = "cuda"
    stack.enter_context(_threads(config.threads or 1))
    if checkpoint:
        require_resumable(checkpoint, method.has_core)
    phase("Loading the model")
    tokenizer, model = load_tokenizer(base.path), load_causal_lm(base.path).to(device)
    method, match = match_on(base, config, model)
    if reasons := _reasons_left_out(base, config, model):
        report(Caveat(_note_left_out(reasons)))
    data = load_data(config, base, tokenizer, model)
    for caveat in data.caveats:
        report(Caveat(caveat))
    phase("Decomposing the base")
    spectra = BaseSpectra(base, device=config.device)
    weights = [base.weights[module] for module in match.ranks]
    for progress in spectra.prepare(weights, config.principal_rank, stopped):
        phase(f"Decomposing the base: {progress.done} of {progress.total} weights")
    inputs = prepare_inputs(config, spectra, weights, stopped, phase, report)
    if stopped():
        run.set_status(Status("stopped", "", "Stopped before the first step.", device))
        return
    # The geometry that the method trains in.
    own: BaseSpectra = spectra
    if config.on_inputs and inputs is not None:
        own = inputs
        observe_inputs(model, inputs.calibration)
    _record_origin(run, [spectra.weight_hash(weight) for weight in weights])
    phase("Adding the adapter")
    earlier = earlier_updates(base, config)
    settings = within_what_is_left(config, own, earlier) if method.has_core else config
    set_seed(config.seed)
    adapted = _adapt(run, model, method, match, settings)
    if earlier and checkpoint and method.has_core:
        # Its basis is compared with the base as it is, before the earlier updates.
        adapted.load_adapter(str(checkpoint.path), adapted.active_adapter, is_trainable=True)
    # The basis is the base's own: cores of adapters that follow each other then add up.
    add_updates(adapted, earlier)
    if method.keeps_start:
        _keep_start(run, adapted, method, resumed=checkpoint is not None)
    past = run.rewind(checkpoint.step if checkpoint else -1)
    _require_room(run, adapted)
    prices = stack.enter_context(closing(ShadowPrices(adapted))) if method.has_core else None
    watched = as_at_the_start(run, inputs, resumed=checkpoint is not None)
    recorder = Recorder(run, adapted, data, spectra, watched, prices, report, past, checkpoint)
    trainer = _trainer(run, adapted, data, method, device, [recorder, StopOnRequest(stopped)])
    if checkpoint and checkpoint.step >= config.steps:
        # Only the final card is missing.
        done = checkpoint.step
    else:
        phase("Training")
        trainer.train(resume_from_checkpoint=str(checkpoint.path) if checkpoint else None)
        done = trainer.state.global_step
    if done < config.steps:
        run.set_status(Status("stopped", "", f"Stopped at step {done} of {config.steps}.", device))
        return
    write_adapter(run, run.checkpoints[-1], recorder.card(done))
    keep_adapters(run)
    run.set_status(Status("finished", "", "", device))


@contextmanager
def _failure_recorded(run: Run) -> Iterator[None]:
    """Write a failure into the run's status, and raise it as one sentence where there is one."""
    try:
        yield
    except BaseException as error:
        problem = _sentence(run, error)
        interrupted = isinstance(error, KeyboardInterrupt)
        message = str(problem or ("Interrupted." if interrupted else f"{type(error).__name__}: {error}"))
        # On a full disk this fails too: the lock is released, and the run counts as killed.
        with suppress(HiploraError):
            run.set_status(Status("stopped" if interrupted else "failed", "", message, run.status.device))
        if problem is not None and problem is not error:
            raise problem from error
        raise


def _sentence(run: Run, error: BaseException) -> HiploraError | None:
    """Return the sentence for an error that the user can resolve; None for any other."""
    if isinstance(error, HiploraError):
        return error
    if isinstance(error, OSError) and error.errno in _UNWRITABLE:
        return run.unwritable(error)
    name, text = type(error).__name__, str(error)
    if name == "SafetensorError" or "inline_container" in text or "file write failed" in text:
        return run.unwritable(OSError(text.splitlines()[0]))
    if name == "OutOfMemoryError":
        return HiploraError(
            f"{run.name} ran out of GPU memory, and would again when resumed: start a new run with a smaller batch "
            "size or max length."
        )
    return None


def _record_origin(run: Run, weight_hashes: list[str]) -> None:
    """Record the hashes of a run's base and data, and refuse to resume with others.

    Raises:
        HiploraError: the base, the data or the probe have changed since the run began.
    """
    found = {"base": hashlib.sha256("".join(weight_hashes).encode()).hexdigest()}
    for name in ("data", "probe", "text"):
        if path := getattr(run.own_config, name):
            found[name] = hash_of(Path(path))
    for name in run.own_config.on_top:
        found[f"earlier adapter {name}"] = digest_of(read_adapter(name))
    before = run.facts.get("sha256")
    if before is not None and before != found:
        changed = next(name for name in found if before.get(name) != found[name])
        which = getattr(run.own_config, changed, "")
        raise HiploraError(
            f"The {changed} of {run.name} has changed since the run began{which and f' ({which})'}: restore it, or "
            "start a new run."
        )
    run.record_facts(sha256=found)


def _adapt(run: Run, model: Any, method: Method, match: Match, settings: HipLoraSettings) -> "PeftModel":
    """Add a new adapter with these settings to the model, and record facts about it.

    Raises:
        HiploraError: PEFT refuses the model, or adapts other maps than those that were matched.
    """
    from peft import get_peft_model

    base, left_alone = run.own_config.base, [module for module, _ in model.named_modules() if module not in match.ranks]
    try:
        adapted = get_peft_model(model, method.peft_config(settings, match.ranks, left_alone))
    except (ValueError, TypeError, NotImplementedError) as error:
        reason = str(error).strip().partition("\n")[0].rstrip(".")
        raise HiploraError(
            f"PEFT cannot adapt {base} with {method.title} ({reason}): choose another method or base."
        ) from error
    if (found := sum(p.numel() for p in adapted.parameters() if p.requires_grad)) != match.parameters:
        raise HiploraError(
            f"{method.title} on {base} trains {found:,} parameters instead of the {match.parameters:,} that "
            "match the other methods: choose another method or base."
        )
    run.record_facts(
        versions={"hiplora": __version__} | {name: version(name) for name in ("torch", "transformers", "peft")},
        python=platform.python_version(),
        modules=list(match.ranks),
        trainable_parameters=found,
        matched_to=match.reference,
    )
    return adapted


def _keep_start(run: Run, model: "PeftModel", method: Method, *, resumed: bool) -> None:
    """Save the initial weights of the adapter, or check that they equal the saved ones.

    Raises:
        HiploraError: a resumed run would have other initial weights.
    """
    import torch
    from peft import get_peft_model_state_dict
    from safetensors.torch import load_file, save_file

    path = run.path / INITIAL_FILE
    state = {key: value.cpu().contiguous() for key, value in get_peft_model_state_dict(model).items()}
    if not resumed:
        with atomic_path(path) as draft:
            save_file(state, draft, {"format": "pt"})
    elif any(not torch.equal(state[key], value) for key, value in load_file(path).items()):
        raise HiploraError(
            f"{run.name} cannot resume here: this machine's SVD of the base differs in the last digits, and a "
            f"checkpoint of {method.title} needs its own start. Resume it on the machine where it was started."
        )


def _require_room(run: Run, model: "PeftModel") -> None:
    """Raise before the first step, not at the first checkpoint, if the disk is too full.

    Raises:
        HiploraError: the disk is too full; names the space needed.
    """
    trained = sum(p.numel() * p.element_size() for p in model.parameters() if p.requires_grad)
    held = sum(b.numel() * b.element_size() for name, b in model.named_buffers() if "hiplora" in name)
    # Two checkpoints with Adam's two moments, the adapter of every other one, and the run's own adapter.
    needed = 4 * trained + (trained + held) * (3 + run.own_config.steps // (run.own_config.save_every or 1))
    free = shutil.disk_usage(run.path).free
    if free < needed:
        raise HiploraError(
            f"{run.path} has {free / 1e6:.0f} MB free and needs {needed / 1e6:.0f} MB: "
            "free some space, or choose another folder."
        )


def _trainer(
    run: Run, model: "PeftModel", data: TrainingData, method: Method, device: str, callbacks: list[Any]
) -> "Trainer":
    """Return the Trainer of a run."""
    import torch
    from peft.optimizers import create_loraplus_optimizer
    from transformers import PrinterCallback, Trainer, TrainingArguments

    config, on_gpu = run.own_config, device.startswith("cuda")
    optimizer, ratio = None, method.learning_rate_ratio
    if ratio != 1:
        optimizer = create_loraplus_optimizer(
            model,
            torch.optim.AdamW,
            lr=(config.learning_rate or 0.0) / math.sqrt(ratio),
            loraplus_lr_ratio=ratio,
            weight_decay=config.weight_decay,
        )
    arguments = TrainingArguments(
        output_dir=str(run.path / "checkpoints"),
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
    # One device: with several visible, the Trainer would put one batch on each.
    _ = arguments.device
    arguments._n_gpu = min(arguments.n_gpu, 1)
    trainer = Trainer(
        model=model,
        args=arguments,
        train_dataset=data.dataset,
        data_collator=data.collator,
        optimizers=(optimizer, None),
        callbacks=callbacks,
    )
    trainer.pop_callback(PrinterCallback)
    return trainer


@contextmanager
def _threads(count: int) -> Iterator[None]:
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
