"""The gallery: a report on each pair of the demo's adapters, made while the documentation is built.

By itself, from the root of the repository: `.venv/bin/python -m docs.gallery`. A directive, `{gallery}`, lists them.
"""

import argparse
from html import escape
from pathlib import Path

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

import hiplora

REPORTS = {
    "swap": ("demo", ("swap-lora", "swap-hiplora")),
    "edit": ("demo", ("edit-lora", "edit-hiplora")),
    "rot": ("demo", ("rot-lora", "rot-hiplora")),
}
"""`{report: (base, adapters)}`."""
FOLDER = "gallery"


def build(out: Path) -> list[Path]:
    """Write every report into a folder.

    Args:
        out: the folder; made if it does not exist.
    """
    paths = []
    for name, (base, adapters) in REPORTS.items():
        paths.append(out / f"{name}.html")
        hiplora.open(base, adapters).to_html(paths[-1])
    return paths


class _Gallery(SphinxDirective):
    """A paragraph for each report: its link, and what it says of each adapter."""

    def run(self) -> list[nodes.Node]:
        parts = []
        for name, (base, adapters) in REPORTS.items():
            judged = hiplora.open(base, adapters).judgements()
            items = "".join(
                f"<li><strong>{escape(adapter)}</strong>: {escape(found.verdict)} {escape(found.reason)}</li>"
                for adapter, found in judged.items()
            )
            link = f'<a href="{FOLDER}/{name}.html">{escape(" and ".join(adapters))}, on {escape(base)}</a>'
            parts.append(f"<p>{link}</p><ul>{items}</ul>")
        return [nodes.raw("", "".join(parts), format="html")]


def _build_with(app: Sphinx, exception: Exception | None) -> None:
    """Put the reports beside the pages that link to them."""
    if exception is None and app.builder.name == "html":
        build(Path(app.outdir) / FOLDER)


def setup(app: Sphinx) -> dict[str, bool]:
    """Register the directive, and the reports themselves."""
    app.add_directive("gallery", _Gallery)
    app.connect("build-finished", _build_with)
    return {"parallel_read_safe": True, "parallel_write_safe": True}


def main() -> None:
    """Write every report into the folder that is named."""
    parser = argparse.ArgumentParser(description="Write the reports of the gallery.")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "_build" / FOLDER, help="Folder to write")
    for path in build(parser.parse_args().out):
        print(f"{path} ({path.stat().st_size / 1e6:.2f} MB)")  # noqa: T201


if __name__ == "__main__":
    main()
