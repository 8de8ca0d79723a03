"""Parts of the documentation that come from the code: measures, difference measures, training methods and layers.

A directive each: `{measures}`, `{differences}`, `{methods}` and `{layers}`.
"""

import ast
import textwrap
import tomllib
from collections.abc import Iterable
from html import escape
from pathlib import Path

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

from hiplora.measure_info import MeasureInfo
from hiplora.measures import DIFFERENCES, MEASURES
from hiplora.training import METHODS

ROOT = Path(__file__).resolve().parents[1]
_WIDTH, _GAP, _LINE, _CHARACTER = 800, 10, 17, 6.4


def layers() -> list[list[str]]:
    """Return the layers that import-linter checks, the top one first, each as its rooms."""
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]
    contract = next(contract for contract in settings["contracts"] if contract["type"] == "layers")
    return [[room.strip() for room in layer.split("|")] for layer in contract["layers"]]


def first_line(room: str) -> str:
    """Return the first sentence of a module's docstring."""
    path = ROOT.joinpath(*room.split("."))
    file = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    docstring = ast.get_docstring(ast.parse(file.read_text())) or ""
    return docstring.partition("\n")[0].replace("`", "")


def layers_svg() -> str:
    """Draw the layers: a row each, a box for each room, with the first line of its docstring."""
    parts: list[str] = []
    y = 0
    for rooms in layers():
        width = (_WIDTH - _GAP * (len(rooms) - 1)) / len(rooms)
        texts = [textwrap.wrap(first_line(room), int((width - 24) / _CHARACTER)) for room in rooms]
        height = 34 + _LINE * max(map(len, texts))
        for number, (room, lines) in enumerate(zip(rooms, texts)):
            x = number * (width + _GAP)
            parts.append(
                f'<rect x="{x + 1}" y="{y + 1}" width="{width - 2}" height="{height - 2}" rx="6" fill="none" '
                'stroke="currentColor" stroke-opacity="0.5"/>'
                f'<text x="{x + 12}" y="{y + 22}" font-weight="600" font-size="14">{escape(room)}</text>'
            )
            parts += [
                f'<text x="{x + 12}" y="{y + 22 + _LINE * row}" font-size="12.5">{escape(line)}</text>'
                for row, line in enumerate(lines, start=1)
            ]
        y += height + _GAP
    return (
        f'<svg viewBox="0 0 {_WIDTH} {y}" role="img" aria-label="Layers of the package" fill="currentColor" '
        f'font-family="sans-serif" style="width: 100%">{"".join(parts)}</svg>'
    )


class _Layers(SphinxDirective):
    def run(self) -> list[nodes.Node]:
        self.env.note_dependency(str(ROOT / "pyproject.toml"))
        return [nodes.raw("", layers_svg(), format="html")]


class _Measures(SphinxDirective):
    """A heading for each measure, with its meaning, formula, null, source and columns."""

    registry: Iterable[MeasureInfo] = MEASURES.values()

    def run(self) -> list[nodes.Node]:
        return self.parse_text_to_nodes("\n".join(map(_described, self.registry)), allow_section_headings=True)


class _Differences(_Measures):
    registry = DIFFERENCES.values()


class _Methods(SphinxDirective):
    """A table of the training methods."""

    def run(self) -> list[nodes.Node]:
        rows = [f"| `{m.key}` | {m.title} | {m.summary} | {m.source} |" for m in METHODS.values()]
        return self.parse_text_to_nodes("\n".join(["| key | method | in short | source |", "|---|---|---|---|", *rows]))


def _described(info: MeasureInfo) -> str:
    columns = [info.column, *getattr(info, "beside", ())]
    facts = [
        f"- null: ${info.null}$" if info.null else "- null: none",
        f"- source: {info.source}",
        f"- {'column' if len(columns) == 1 else 'columns'}: {', '.join(f'`{column}`' for column in columns)}",
    ]
    if getattr(info, "optional", False):
        facts.append("- computed on request: it needs complete spectra")
    if info.unit:
        facts.insert(0, f"- unit: {info.unit}")
    return "\n".join([f"### {info.name}", "", info.meaning, "", "$$", info.formula, "$$", "", *facts, ""])


def _keep_prose(app: Sphinx, what: str, name: str, obj: object, options: object, lines: list[str]) -> None:
    """Keep napoleon from reading `Roots of the values: quick` as a type and a description."""
    if what in ("attribute", "data", "property") and lines:
        lines[:0] = ["..", ""]  # an empty comment


def setup(app: Sphinx) -> dict[str, bool]:
    """Register the directives."""
    app.connect("autodoc-process-docstring", _keep_prose, priority=400)
    app.add_directive("layers", _Layers)
    app.add_directive("measures", _Measures)
    app.add_directive("differences", _Differences)
    app.add_directive("methods", _Methods)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
