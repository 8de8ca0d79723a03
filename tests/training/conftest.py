import pytest

from hiplora.training import Run, RunConfig
from hiplora.training.events import Step
from hiplora.training.train import train

SMALL = {"base": "demo", "task": "swap", "batch_size": 4, "measure_every": 2, "score_every": 4, "save_every": 3,
         "evaluation_size": 8, "threads": 1}  # fmt: skip


@pytest.fixture
def small_run(tmp_path):
    """Return `small_run(name, **config)`: a new run on the demo base that takes a second or two, not started."""

    def make(name="run", **config):
        return Run.create(tmp_path / name, RunConfig(**{**SMALL, "steps": 8, **config}))

    return make


@pytest.fixture(scope="session")
def finished_run(tmp_path_factory):
    """One HiP-LoRA run of eight steps, done."""
    return train(Run.create(tmp_path_factory.mktemp("runs") / "finished", RunConfig(**SMALL, steps=8)))


def step(number, **fields):
    """A step event with some numbers."""
    numbers = {"loss": 1.0, "task_loss": 1.0, "penalty": 0.0, "learning_rate": 1e-3, "grad_norm": None}
    return Step(**{"step": number, "seconds": 1.0, "tokens": 1, **numbers, **fields})
