"""All pairs and triples of the demo's adapters, merged in every way and scored: `python -m tests.studies.merges OUT`.

Writes `outcomes.csv` (every way beside the base, the adapters and the sum scaled to the same norm), `sets.csv` and
`fails.csv` (MergeFail, also with half the weight) of the LoRA adapters and of the HiP-LoRA ones. With `--size 100` it
takes about ten minutes of processor time.
"""

import argparse
from collections.abc import Iterator
from pathlib import Path

import pandas as pd

import hiplora
from hiplora.demo import SHIPPED_METHODS, TASKS
from hiplora.demo.scored import ExactScores
from hiplora.merging import fail_table
from hiplora.study import merge_groups

WEIGHTS = (1.0, 0.5)


def main() -> None:
    """Score everything, and write the tables as they grow."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("--size", type=int, default=200)
    chosen = parser.parse_args()
    chosen.out.mkdir(parents=True, exist_ok=True)
    scores = ExactScores(chosen.size)
    studies = {method: hiplora.open("demo", [f"{task}-{method}" for task in TASKS]) for method in SHIPPED_METHODS}
    _write(chosen.out / "outcomes.csv", _outcomes(studies, scores))
    sets = _write(chosen.out / "sets.csv", _sets(studies, scores))
    groups = sets.groupby(["method", "weight"])
    fails = [fail_table(part).assign(method=method, weight=weight) for (method, weight), part in groups]
    pd.concat(fails).to_csv(chosen.out / "fails.csv", index=False)


def _sets(studies: dict[str, hiplora.Study], scores: ExactScores) -> Iterator[pd.DataFrame]:
    # Those of weight 1 are remembered from the outcomes.
    for weight in WEIGHTS:
        for method, study in studies.items():
            yield study.merge_sets(weight=weight, scores=scores).assign(method=method, weight=weight)


def _outcomes(studies: dict[str, hiplora.Study], scores: ExactScores) -> Iterator[pd.DataFrame]:
    # The triples first, and the two methods side by side: what is stopped can be compared.
    for tasks in reversed(merge_groups(list(TASKS))):
        for method, study in studies.items():
            table = study.merge_outcomes(names=[f"{task}-{method}" for task in tasks], scores=scores)
            yield table.assign(method=method, adapters=" + ".join(tasks))


def _write(path: Path, tables: Iterator[pd.DataFrame]) -> pd.DataFrame:
    found: list[pd.DataFrame] = []
    for table in tables:
        found.append(table)
        pd.concat(found).to_csv(path, index=False)
        print(f"{path}: {len(found)}", flush=True)
    return pd.concat(found)


if __name__ == "__main__":
    main()
