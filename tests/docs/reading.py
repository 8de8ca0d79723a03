"""What stands in the project's Markdown: headings, links and blocks of code."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from markdown_it import MarkdownIt
from markdown_it.token import Token

from hiplora.paths import site_root

ROOT = site_root()
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
_NOT_RUN = re.compile(r"<!-- not run: .+ -->")


@dataclass(frozen=True)
class Block:
    """A block of code.

    Attributes:
        line: number of its first line in the file.
        text: what it holds.
        runs: whether no comment such as `<!-- not run: needs a GPU -->` stands above it.
        output: the block of text right below it; empty where there is none.
    """

    line: int
    text: str
    runs: bool
    output: str


def tokens(page: Path) -> list[Token]:
    """Return the parts of a page."""
    return MarkdownIt("gfm-like", {"linkify": False}).parse(page.read_text())


def blocks(page: Path, language: str) -> Iterator[Block]:
    """Yield the blocks of a page in one language."""
    parts = [Token("", "", 0), *tokens(page), Token("", "", 0)]
    for (before, token), (_, after) in zip(pairwise(parts), pairwise(parts[1:])):
        if token.type == "fence" and token.info.strip() == language:
            assert token.map is not None
            output = after.content if after.type == "fence" and after.info.strip() == "text" else ""
            yield Block(token.map[0] + 2, token.content, not _NOT_RUN.search(before.content), output)


def links(page: Path) -> Iterator[str]:
    """Yield the targets of the links and pictures of a page."""
    for token in tokens(page):
        for part in token.children or ():
            if part.type in ("link_open", "image"):
                yield str(part.attrs["href" if part.type == "link_open" else "src"])
            elif part.type == "html_inline":
                yield from _in_html(part.content)
        if token.type == "html_block":
            yield from _in_html(token.content)


def _in_html(text: str) -> list[str]:
    return re.findall(r'(?:href|src|srcset)="([^"]+)"', text)


def anchors(page: Path) -> set[str]:
    """Return the anchors of a page's headings, as GitHub and MyST make them."""
    parts = tokens(page)
    titles = [after.content for before, after in pairwise(parts) if before.type == "heading_open"]
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


def inline_code(page: Path) -> Iterator[str]:
    """Yield what stands between backticks in running text."""
    for token in tokens(page):
        yield from (part.content for part in token.children or () if part.type == "code_inline")
