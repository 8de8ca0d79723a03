"""The page of a report: a template, filled."""

import base64
import hashlib
import json
import shlex
import sys
import zlib
from functools import cache
from importlib.metadata import version
from importlib.resources import files
from typing import TYPE_CHECKING, Any

import jinja2
import pandas as pd
import plotly.offline

import hiplora
from hiplora.errors import HiploraError
from hiplora.figures.style import TITLE_HEIGHT
from hiplora.files import hashes_of
from hiplora.measures import summary_words, worst_words
from hiplora.paths import portable
from hiplora.printable import printable
from hiplora.study.report.contents import Shown, shown

if TYPE_CHECKING:
    from hiplora.study.study import Study

_ROWS = 1000
"""Of a table, at most: the directions of a large weight are thousands."""
_WORST = 5
_TEXTS = ("Adapter", "Method", "Module", "adapter", "module", "run", "geometry", "role", "skill")
_PACKAGES = ("numpy", "scipy", "pandas", "plotly", "safetensors", "torch", "transformers", "peft")
# Base 85 with no character that HTML reads as its own.
_B85 = bytes.maketrans(b"<&", b",.")


def page(study: "Study") -> str:
    """Return the report of a study as one HTML page that asks nothing of the network.

    Plotly's script is part of it: compressed, and unpacked by the browser. The page's own rules let no other script run
    and nothing be loaded.

    Args:
        study: with at least one update.

    Raises:
        HiploraError: the study has no update, or one of them cannot be measured.
    """
    if not study.updates:
        raise HiploraError("There is nothing to report: the study has no adapter that can be measured.")
    plotly_code, loader = plotly.offline.get_plotlyjs(), _text("loader.js")
    drawn = list(shown(study))
    names = ", ".join(study.names)
    return _template().render(
        title=f"{names} on {study.base.name}",
        study=study,
        judgements=study.judgements(),
        summary=_table(summary_words(study.summary(), study.geometry)),
        worst=_table(worst_words(study.layers(), _WORST, study.geometry)),
        figures=[_figure(each) for each in drawn],
        drawings=_packed(json.dumps([_drawing(each) for each in drawn], separators=(",", ":"))),
        budget="each adapter's own" if study.epsilon is None else f"{study.epsilon:g}",
        command=_command(study),
        inputs=_inputs(study),
        versions=_versions(),
        style=_text("style.css"),
        loader=loader,
        plotly=_packed_plotly(),
        hashes=" ".join(f"'sha256-{_digest(text)}'" for text in (loader, plotly_code)),
    )


def _template() -> jinja2.Template:
    """Return the template; text that it is given is escaped, and control characters are shown as such."""

    def finalize(value: Any) -> Any:
        # What the template marks as safe is ours.
        if isinstance(value, str) and not hasattr(value, "__html__"):
            return "\n".join(map(printable, value.split("\n")))
        return value

    environment = jinja2.Environment(autoescape=True, finalize=finalize, trim_blocks=True, lstrip_blocks=True)
    return environment.from_string(_text("page.html.jinja"))


@cache
def _text(name: str) -> str:
    """Return a file of this package."""
    return files(__package__).joinpath(name).read_text(encoding="utf-8")


@cache
def _packed_plotly() -> str:
    return _packed(plotly.offline.get_plotlyjs())


def _packed(text: str) -> str:
    """Return text compressed, in characters that a page may hold as they are."""
    gzip = zlib.compressobj(9, zlib.DEFLATED, 16 + zlib.MAX_WBITS, 9)
    small = gzip.compress(text.encode()) + gzip.flush()
    return base64.b85encode(small).translate(_B85).decode()


def _digest(script: str) -> str:
    """Return the hash by which a page's rules name a script."""
    return base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()


def _figure(each: Shown) -> dict[str, Any]:
    """Return what stands around a figure."""
    layout, table = each.figure.layout, each.table
    return {
        "title": layout.title.text,
        "subtitle": layout.title.subtitle.text or "",
        "height": layout.height,
        "measures": each.measures,
        "table": _table(table.head(_ROWS)),
        "left_out": max(len(table) - _ROWS, 0),
        "program": each.program,
    }


def _drawing(each: Shown) -> dict[str, Any]:
    """Return a figure as plotly.js takes it: the page has its title and its colors of paper and ink."""
    found: dict[str, Any] = json.loads(each.figure.to_json())
    layout = found["layout"]
    layout["margin"]["t"] -= TITLE_HEIGHT
    for name in ("title", "template"):
        layout.pop(name, None)
    return {"data": found["data"], "layout": layout}


def _table(table: pd.DataFrame) -> dict[str, Any]:
    """Return a table as header and rows of text, and which columns are names."""
    texts = [column in _TEXTS for column in table]
    rows = [[_cell(value) for value in row] for row in table.astype("object").to_numpy().tolist()]
    return {"header": list(table.columns), "texts": texts, "rows": rows}


def _cell(value: Any) -> str:
    if isinstance(value, str):
        return value
    if pd.isna(value):
        return ""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _command(study: "Study") -> str:
    """Return the command that makes the report again."""
    made_by = study.made_by
    base, adapters = made_by.args
    options: list[str] = []
    for name, value in made_by.keywords.items():
        options += [f"--{name}", portable(value) if name == "text" else str(value)]
    words = ["hiplora", "report", portable(base), *map(portable, adapters), *options, "--out", "report.html"]
    return shlex.join(words)


def _inputs(study: "Study") -> list[tuple[str, str, str]]:
    """Return whose, what and SHA-256 of everything that was read."""
    weights = [study.spectra.weight_hash(weight) for weight in study.weights]
    found = [(study.base.name, f"hashes of its {len(weights)} weights that are changed", _sha256("".join(weights)))]
    found += [(study.base.name, name, digest) for name, digest in hashes_of(study.base.path, (".json",)).items()]
    if (calibration := study.calibration) is not None:
        seen = [calibration.digest(weight.module) for weight in study.weights if weight.module in calibration]
        found.append((calibration.name, f"hashes of what reaches {len(seen)} of them", _sha256("".join(seen))))
    for update in study.updates:
        found += [(update.name, name, digest) for name, digest in hashes_of(update.folder).items()]
    return found


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _versions() -> list[tuple[str, str]]:
    """Return the versions of what computed the numbers."""
    python = ".".join(map(str, sys.version_info[:3]))
    return [("hiplora", hiplora.__version__), ("Python", python), *((name, version(name)) for name in _PACKAGES)]
