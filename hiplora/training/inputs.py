"""The inputs of a base in a run: for HiP-LoRA in their geometry, and for the drift on them."""

import hashlib
from collections.abc import Callable, Sequence

from hiplora.errors import HiploraError
from hiplora.geometry import Calibration, InputSpectra, read_text
from hiplora.sources import Weight
from hiplora.spectrum import BaseSpectra
from hiplora.training.config import RunConfig
from hiplora.training.events import Caveat, Event
from hiplora.training.run import Run


def prepare_inputs(
    config: RunConfig,
    spectra: BaseSpectra,
    weights: Sequence[Weight],
    stopped: Callable[[], bool],
    phase: Callable[[str], None],
    report: Callable[[Event], None],
) -> InputSpectra | None:
    """Return the spectra on the base's inputs; None where a run that does not need them would have to wait for them.

    Raises:
        HiploraError: the method needs them, and the base cannot be observed.
    """
    try:
        calibration = Calibration(spectra, read_text(config.text) if config.text else None)
        if config.on_inputs:
            for progress in calibration.run(stopped):
                phase(f"Observing the inputs: {progress.done} of {progress.total} maps")
            for note in calibration.notes if calibration.ready else []:
                report(Caveat(note))
        if stopped() or not calibration.ready or not any(weight.module in calibration for weight in weights):
            return None
        inputs = InputSpectra(spectra, calibration)
        for progress in inputs.prepare(weights, config.principal_rank, stopped):
            phase(f"Decomposing the base on its inputs: {progress.done} of {progress.total} weights")
    except HiploraError as error:
        if config.on_inputs:
            raise
        report(Caveat(f"The drift on inputs is not recorded: {error}"))
        return None
    return inputs


def as_at_the_start(run: Run, inputs: InputSpectra | None, *, resumed: bool) -> InputSpectra | None:
    """Return the spectra on inputs where the run began with the same ones: the drift on them is of a whole run.

    Args:
        run: whose facts say what it began with.
        inputs: that are there now.
        resumed: whether it began before.
    """
    digests = sorted(each["digest"] for each in inputs.calibration.index["inputs"].values()) if inputs else []
    now = hashlib.sha256("".join(digests).encode()).hexdigest() if digests else ""
    if not resumed:
        run.record_facts(inputs=now)
    return inputs if run.facts.get("inputs", "") == now else None
