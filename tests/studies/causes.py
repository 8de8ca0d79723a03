"""What the layers of an adapter of a real model cause, beside what the indicators say of them, in both geometries.

    python -m tests.studies.causes OUT

Trains LoRA and HiP-LoRA on Python source of the standard library, on SmolLM2-135M-Instruct, scores each without one
layer and one kind of module at a time by its loss on other source and on English, and ranks the indicators. Runs and
tables that OUT holds already are not made again, so it can be stopped at any time.
"""

import argparse
import os
import resource
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path

import pandas as pd

import hiplora
from hiplora.effects import TextLosses, indicator_table, removals
from hiplora.effects.ablation import with_indicators
from hiplora.training import Run, RunConfig
from hiplora.training.run import FolderTakenError
from hiplora.training.train import train

BASE = "SmolLM2-135M-Instruct"
LEARNED = ("argparse", "ast", "calendar", "configparser", "dataclasses", "difflib", "doctest", "fractions", "inspect")
HELD_OUT = ("statistics", "textwrap", "zipfile")
"""Modules of the standard library: to train on, and to score the task on."""
GEOMETRIES = ("weights", "inputs")


def source_file(out: Path, name: str, modules: tuple[str, ...]) -> Path:
    """Write the source of modules into one text file, and return its path."""
    found = [find_spec(module) for module in modules]
    file = out / name
    file.write_text("\n".join(Path(spec.origin).read_text() for spec in found if spec and spec.origin))
    return file


def trained(out: Path, method: str, data: Path, steps: int) -> Run:
    """Return a run, trained from where it stands."""
    config = RunConfig(
        base=BASE, method=method, data=str(data), steps=steps, batch_size=2, max_length=256, learning_rate=1e-3,
        warmup_steps=10, measure_every=steps, score_every=steps, save_every=25,
    )  # fmt: skip
    try:
        run = Run.create(out / f"code-{method}", config)
    except FolderTakenError:
        run = Run(out / f"code-{method}")
    return train(run)


def removed(study: hiplora.Study, by: str, scores: TextLosses, file: Path) -> pd.DataFrame:
    """Return the losses without one part at a time, from a file where it is there."""
    if not file.exists():
        layers = study.layers()
        *_, table = study.ablate(study.names[0], scores, removals(layers, by))
        table.astype({"adapter": str}).to_parquet(file)
    return pd.read_parquet(file)


def main() -> None:
    """Train, observe, score and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--steps", type=int, default=150)
    parser.add_argument("--tokens", type=int, default=2048)
    parser.add_argument("--methods", nargs="+", default=["lora", "hiplora"])
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    data = source_file(args.out, "learned.py.txt", LEARNED)
    scores = TextLosses(source_file(args.out, "held-out.py.txt", HELD_OUT), tokens=args.tokens)
    os.environ["HIPLORA_CACHE"] = str(args.out / "cache")
    # Converted once, by a process of its own: the peak below is that of observing alone.
    for command in ("svd", "calibrate"):
        begun, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
        subprocess.run([sys.executable, "-m", "hiplora", command, BASE], capture_output=True, check=True)
        peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
        held = f"peak {peak / 2**20:.2f} GiB" if peak > before else f"peak at most {before / 2**20:.2f} GiB"
        print(f"{command}: {time.perf_counter() - begun:.0f} s, {held}", flush=True)
    for method in args.methods:
        run = trained(args.out, method, data, args.steps)
        studies = {geometry: hiplora.open(BASE, [run.path], k=16, geometry=geometry) for geometry in GEOMETRIES}
        for geometry, study in studies.items():
            columns = ["relative_norm", "pp", "enrichment", "max_tightness"]
            print(f"\n{method}, {geometry}:", study.summary()[columns].iloc[0].round(4).to_dict(), flush=True)
        for by in ("layer", "kind"):
            table = removed(studies["weights"], by, scores, args.out / f"{method}-{by}.parquet")
            whole = table.iloc[0]
            print(
                f"\n{method} by {by}: task {whole['base_task_loss']:.3f} to {whole['task_loss']:.3f}, "
                f"kept {whole['base_kept_loss']:.3f} to {whole['kept_loss']:.3f} nats"
            )
            for geometry, study in studies.items():
                print(f"of {geometry}:")
                print(indicator_table(with_indicators(table, study.layers(), by)).round(2).to_string(), flush=True)


if __name__ == "__main__":
    main()
