"""What a page says of runs whose drift was not recorded."""

from pathlib import Path

import pytest

from hiplora.training import Run, RunConfig, drift_history
from hiplora.training.events import Drift, Geometry, Layers
from hiplora.ui.drift import missing


def measured(folder: Path, step: int, *geometries: Geometry) -> Run:
    """A run that measured one module at a step, and its drift in some geometries."""
    run = Run.create(folder, RunConfig(base="demo", task="swap"))
    run.record_facts(modules=["model.layers.0.mlp.up_proj"])
    run.append(Layers(step, 0.1, [0.05], [0.2], [0.1], [0.1], [0.1], [0.1]))
    for geometry in geometries:
        run.append(Drift(step, geometry, "", 0.1, 0.2, 0.1, 0.05, 0.15, 2.0))
    return run


@pytest.mark.parametrize(
    ("step", "geometries", "said"),
    [
        (0, (), []),
        (5, ("weights", "inputs"), []),
        (5, ("weights",), ["The drift of run on inputs was not recorded: `hiplora calibrate` the base"]),
        (5, (), ["The drift of run was not recorded: an earlier version trained it"]),
    ],
    ids=["at the start", "both", "weights", "earlier version"],
)
def test_missing_drift_is_said_once_training_has_begun(
    tmp_path: Path, step: int, geometries: tuple[Geometry, ...], said: list[str]
) -> None:
    run = measured(tmp_path / "run", step, *geometries)
    found = missing(drift_history([run]), {"run": run})
    assert len(found) == len(said)
    assert all(sentence.startswith(start) for sentence, start in zip(found, said, strict=True))
