"""What it costs to watch a training: fifty steps' records, one of them with a measurement, against fifty steps."""

import tempfile
from collections.abc import Iterator, Sequence
from itertools import count
from pathlib import Path

from hiplora import SpectralRecorder
from tests.benchmarks.layer import MODELS, build, stepper
from tests.benchmarks.report import Line
from tests.benchmarks.timing import paired_ratio, race

EVERY = 50
"""The default interval."""
_METHODS = {"LoRA": "lora", "DoRA, which reads the base's weights": "dora", "HiP-LoRA": "hiplora"}


def watch_lines(models: Sequence[str], seconds: float) -> Iterator[Line]:
    """Yield the share of the training time that watching takes, by model and method.

    Args:
        models: of `MODELS`.
        seconds: of timing for each.
    """
    for target in models:
        batch, length = MODELS[target]
        for title, method in _METHODS.items():
            model = build(target, method, "cpu")
            step, numbers = stepper(model, target, "cpu"), count(1)
            with tempfile.TemporaryDirectory() as folder:
                watch = SpectralRecorder(model, steps=10**6, run=Path(folder) / "run", every=EVERY, base=target)

                def records(watch: SpectralRecorder = watch, numbers: Iterator[int] = numbers) -> None:
                    for _ in range(EVERY):
                        watch.record(next(numbers), loss=1.0)

                times = race({"ours": records, "step": step}, seconds)
                watch.drop()
            ratio = paired_ratio([time / EVERY for time in times["ours"]], times["step"])
            yield Line(
                part="watch",
                what=f"SpectralRecorder, {title}",
                peer="a step of training",
                size=f"{target}, {batch} x {length} tokens, cpu, every {EVERY} steps",
                quantity="time, ours / peer",
                ratio=ratio,
                goal="<= 0.02" if method != "dora" else "",
                ours=sorted(times["ours"])[len(times["ours"]) // 2] / EVERY,
                theirs=sorted(times["step"])[len(times["step"]) // 2],
            )
