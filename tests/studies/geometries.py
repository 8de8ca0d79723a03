"""LoRA and HiP-LoRA in both geometries: tasks x seeds, each trained as `hiplora train` does, in one table.

    python -m tests.studies.geometries OUT --seeds 0 1 2

Runs that OUT holds already are not trained again, so it can be stopped at any time.
"""

import argparse
from pathlib import Path

import pandas as pd

import hiplora
from hiplora.demo import TASKS
from hiplora.training import Run, RunConfig
from hiplora.training.run import FolderTakenError
from hiplora.training.train import train

WAYS = {
    "LoRA": {"method": "lora"},
    "HiP-LoRA": {"method": "hiplora"},
    "HiP-LoRA on inputs": {"method": "hiplora", "geometry": "inputs"},
}


def trained(out: Path, task: str, way: str, seed: int, examples: int) -> Run:
    """Return a run, trained from where it stands."""
    config = RunConfig(base="demo", task=task, seed=seed, evaluation_size=examples, **WAYS[way])
    path = out / config.default_name
    try:
        run = Run.create(path, config)
    except FolderTakenError:
        run = Run(path)
    return train(run)


def row(run: Run, way: str) -> dict[str, object]:
    """Return what a run scored, and its size in both geometries."""
    found: dict[str, object] = {"task": run.config.task, "method": way, "seed": run.config.seed}
    found |= {"task score": run.card.task_score, "kept": run.card.retention}
    for geometry, name in (("weights", "norm"), ("inputs", "effect")):
        summary = hiplora.open("demo", [run.path], geometry=geometry).summary().iloc[0]
        found |= {name: summary["relative_norm"], f"PP of {geometry}": summary["pp"]}
    return found


def main() -> None:
    """Train what is missing, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--examples", type=int, default=200)
    args = parser.parse_args()
    rows = []
    for seed in args.seeds:
        for task in TASKS:
            for way in WAYS:
                rows.append(row(trained(args.out, task, way, seed, args.examples), way))
                print(rows[-1], flush=True)
    table = pd.DataFrame(rows)
    kept = table.pivot_table(index=["task", "seed"], columns="method", values="kept")
    print(kept[list(WAYS)].round(3).to_string())
    print(
        table.groupby(["task", "method"], sort=False).mean(numeric_only=True).drop(columns="seed").round(3).to_string()
    )


if __name__ == "__main__":
    main()
