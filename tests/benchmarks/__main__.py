"""`python -m tests.benchmarks`: one table of ratios against peers, as Markdown and JSON."""

import argparse
import os
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterable
from pathlib import Path

_RESULTS = Path(__file__).with_name("results.json")
PARTS = ("layer", "svd", "analysis", "memory", "inputs", "watch", "screen")


def _shape(text: str) -> tuple[int, int]:
    m, _, n = text.partition("x")
    return int(m), int(n or m)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser("python -m tests.benchmarks", description=__doc__)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS, help="which (default: all)")
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="of BLAS and torch (default: all cores)")
    parser.add_argument("--seconds", type=float, default=20.0, help="of timing for each comparison (default: 20)")
    parser.add_argument("--rounds", type=int, default=3, help="fresh processes for each peak of a step (default: 3)")
    parser.add_argument("--widths", nargs="*", type=int, default=[1024, 2048, 4096], help="of single layers")
    parser.add_argument("--models", nargs="*", default=["SmolLM2-135M-Instruct", "demo"], help="whole models to train")
    parser.add_argument("--sizes", nargs="*", type=_shape, help="of SVDs (default: 1024 2048 and Llama-3.1-8B's)",
                        default=[(1024, 1024), (2048, 2048), (1024, 4096), (4096, 4096), (14336, 4096)])  # fmt: skip
    parser.add_argument("--layers", nargs="+", type=int, default=[0, 14, 29], help="of SmolLM2 for the slow ways")
    parser.add_argument("--scale", type=int, default=8, help="divides Llama's widths, for memory by number of blocks")
    parser.add_argument("--blocks", nargs="+", type=int, default=[2, 8, 32], help="of the narrow Llamas")
    parser.add_argument("--full-blocks", nargs="*", type=int, default=[2, 8, 32], help="of full width, 0.44 GB each")
    parser.add_argument("--json", type=Path, default=_RESULTS, help="(default: results.json beside the benchmarks)")
    parser.add_argument("--markdown", type=Path, help="write the table here too")
    return parser.parse_args()


def main() -> None:
    """Measure, print the table and write it."""
    args = _arguments()
    # Before numpy and torch are imported: their thread pools read it once.
    os.environ["OMP_NUM_THREADS"] = os.environ["OPENBLAS_NUM_THREADS"] = str(args.threads)
    os.environ["HF_HUB_OFFLINE"] = "1"
    warnings.simplefilter("ignore")
    with tempfile.TemporaryDirectory(prefix="hiplora-benchmark-") as folder:
        _measure(args, Path(folder))


def _measure(args: argparse.Namespace, cache: Path) -> None:
    from hiplora.sources import known_bases, open_base

    # Converted bases are taken from the user's cache, spectra go to one of our own.
    (cache / "bases").mkdir()
    for base in known_bases():
        if base.package and "smollm2" in base.package:
            (cache / "bases" / base.name).symlink_to(open_base(base.name).path)
    os.environ["HIPLORA_CACHE"] = str(cache)

    import torch
    import transformers

    from tests.benchmarks import analysis, inputs, layer, memory, report, screen, svd, watch

    torch.set_num_threads(args.threads)
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    about: dict[str, object] = {
        "machine": report.machine(),
        "versions": report.versions(),
        "threads": args.threads,
        "commit": report.commit(),
        "date": report.today(),
    }
    left_out: list[str] = []
    parts: dict[str, Callable[[], Iterable[report.Line]]] = {
        "layer": lambda: layer.layer_lines(args.widths, args.models, args.seconds, args.rounds, args.threads, left_out),
        "svd": lambda: svd.svd_lines(args.sizes, args.seconds),
        "analysis": lambda: analysis.analysis_lines(args.layers, args.seconds, left_out),
        "memory": lambda: memory.memory_lines(
            {memory.Shape(args.scale): args.blocks, memory.Shape(): args.full_blocks}, args.threads
        ),
        "inputs": lambda: inputs.inputs_lines(
            {memory.Shape(args.scale): args.blocks, memory.Shape(): args.full_blocks[:1]},
            args.rounds,
            args.threads,
            left_out,
        ),
        "watch": lambda: watch.watch_lines(args.models, args.seconds),
        "screen": lambda: screen.screen_lines(args.rounds, left_out),
    }
    lines: list[report.Line] = []
    start = time.monotonic()
    for part in args.parts:
        for line in parts[part]():
            lines.append(line)
            # After each line, so that what was measured survives an interruption.
            report.write_json(args.json, lines, left_out, about)
            words = (line.part, line.what, "against", line.peer, line.size, line.quantity, line.ratio)
            print(f"{time.monotonic() - start:6.0f} s ", *words, file=sys.stderr)
    table = report.markdown(lines, left_out, about)
    print(table)
    if args.markdown:
        args.markdown.write_text(table)


if __name__ == "__main__":
    main()
