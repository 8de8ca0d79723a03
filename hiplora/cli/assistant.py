"""The command that lets an assistant ask: mcp, a read-only server of the Model Context Protocol."""

import argparse
import json
from typing import TYPE_CHECKING, Any

from hiplora.errors import HiploraError

if TYPE_CHECKING:
    import pandas as pd
    from mcp.server import MCPServer

_INSTRUCTIONS = """\
hiplora measures what LoRA adapters do to the leading singular directions of their base model. A share says nothing by
itself: only one outside pp_null_low to pp_null_high differs from a random update of the same size and rank. Geometry is
not forgetting: only retention, where it is not null, was measured as such. null means not known, never 0.
"""


def mcp(args: argparse.Namespace) -> None:
    """`hiplora mcp`: serve an assistant on stdin and stdout."""
    server().run("stdio")


def server() -> "MCPServer[Any]":
    """Return the server with its tools; each is one call of a study or of what makes one.

    Raises:
        HiploraError: the SDK is not installed.
    """
    try:
        from mcp.server import MCPServer
        from mcp.types import ToolAnnotations
    except ImportError:
        raise HiploraError("The MCP server needs the package mcp: `pip install 'hiplora[mcp]'`.") from None
    from hiplora import __version__

    found: MCPServer[Any] = MCPServer("hiplora", instructions=_INSTRUCTIONS, version=__version__, log_level="WARNING")
    reads = ToolAnnotations(read_only_hint=True, destructive_hint=False, idempotent_hint=True, open_world_hint=False)
    for tool in (list_models, describe, analyze, compare):
        found.tool(annotations=reads, structured_output=True)(_in_words(tool))
    return found


def list_models() -> dict[str, Any]:
    """List the bases that are known by name, the adapters of the demo, and the training runs on this machine.

    Any other base or adapter is named by its folder.
    """
    from hiplora.paths import demo_adapters
    from hiplora.sources import known_bases
    from hiplora.training import list_runs

    return {
        "bases": [base.name for base in known_bases()],
        "adapters_of_demo": [path.name for path in demo_adapters()],
        "runs": [{"path": str(run.path), "base": run.config.base, "state": run.status.state} for run in list_runs()],
    }


def describe(adapter: str, base: str | None = None) -> dict[str, Any]:
    """Describe an adapter: which tensors are read, scaling, ranks and norms, and whether it fits a base.

    Args:
        adapter: folder, file, run, or name of one of the demo's adapters.
        base: folder or known name, to see whether the adapter fits it.
    """
    from hiplora.adapters import read_adapter
    from hiplora.measures import inspect
    from hiplora.sources import open_base

    return inspect(read_adapter(adapter), open_base(base) if base else None).to_dict()


def analyze(base: str, adapters: list[str], k: int = 16, geometry: str = "weights", worst: int = 5) -> dict[str, Any]:
    """Measure adapters on their base: a row with its null and a sentence on each, and its modules of highest tightness.

    Enrichment is the share in the principal block (pp) over that of a random update (pp_null, with its 95 % band).
    Tightness above 1 is over the stability budget. The first use of a base computes its SVDs, which may take minutes.

    Args:
        base: folder or known name, such as demo.
        adapters: folders, files, runs, or names of the demo's adapters.
        k: principal rank.
        geometry: weights, or inputs to measure what adapters do to the outputs on the base's own text.
        worst: how many modules of each adapter to list.
    """
    from hiplora.study import open_study

    study = open_study(base, adapters, k, geometry=geometry, strict=False).measurable()
    if not study.updates:
        raise HiploraError(" ".join(study.refusals) or "Name at least one adapter.")
    layers = study.layers().sort_values("tightness", ascending=False, kind="stable")
    columns = [
        "adapter",
        "module",
        "enrichment",
        "pp",
        "pp_null",
        "pp_null_low",
        "pp_null_high",
        "relative_norm",
        "tightness",
    ]
    return {
        "base": study.base.name,
        "k": k,
        "geometry": geometry,
        "adapters": _records(study.summary()),
        "judgements": {
            name: {"verdict": found.verdict, "advice": found.advice, "reason": found.reason}
            for name, found in study.judgements().items()
        },
        "caveats": study.caveats,
        "not_measured": study.refusals,
        "worst_modules": _records(layers.groupby("adapter", sort=False).head(worst)[columns]),
    }


def compare(base: str, first: str, second: str, k: int = 16, most: int = 10) -> dict[str, Any]:
    """Compare two adapters of one base: whether they push the same way, block by block, and where they differ most.

    The cosine of independent adapters is 0 with standard deviation null_sd. Blocks: pp is inside the leading directions
    on both sides, rr outside on both, pr and rp one side only. With joint_tightness above 1 both together are over the
    budget.

    Args:
        base: folder or known name, such as demo.
        first: folder, file, run, or name of one of the demo's adapters.
        second: another one.
        k: principal rank.
        most: how many of the modules that hold most of the difference to list.
    """
    from hiplora.merging import conflict_summary
    from hiplora.study import open_study

    study = open_study(base, [first, second], k)
    modules = study.compare(*study.names).sort_values("share", ascending=False, kind="stable").head(most)
    columns = [
        "module",
        "share",
        "relative_norm",
        "pp",
        "pp_null",
        "cosine",
        "cosine_pp",
        "cosine_rr",
        "joint_tightness",
    ]
    conflicts = study.conflicts()
    return {
        "base": study.base.name,
        "k": k,
        "pair": study.names,
        "blocks": _records(conflict_summary(conflicts)) if len(conflicts) else [],
        "modules": _records(modules[columns]),
        "caveats": study.caveats,
    }


def _records(table: "pd.DataFrame") -> list[dict[str, Any]]:
    """Return the rows of a table; what is not known is None."""
    found: list[dict[str, Any]] = json.loads(table.to_json(orient="records", double_precision=15))
    return found


def _in_words(tool: Any) -> Any:
    """Return a tool that answers bad input with its sentence, control characters escaped."""
    from functools import wraps

    from mcp.server.mcpserver.exceptions import ToolError

    from hiplora.printable import printable

    @wraps(tool)
    def asked(*args: Any, **kwargs: Any) -> Any:
        try:
            return tool(*args, **kwargs)
        except (HiploraError, OSError) as error:
            raise ToolError(printable(str(error))) from None

    return asked
