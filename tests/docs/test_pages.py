"""README, CONTRIBUTING and docs/ say what is so: their links lead somewhere, their commands and programs run."""

import argparse
import io
import shlex
from collections.abc import Iterator
from contextlib import redirect_stdout
from pathlib import Path

import plotly.io
import pytest

from hiplora.cli.parser import build_parser
from hiplora.ui.shell import PAGES as APP
from tests.docs.reading import PAGES, ROOT, anchors, blocks, inline_code, links

WORDS = {"BASE": "demo", "ADAPTER...": "swap-lora"}
"""Placeholders that do not stand for a value as they are."""


def _named(pages: list[Path]) -> list[object]:
    return [pytest.param(page, id=str(page.relative_to(ROOT))) for page in pages]


def test_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text().splitlines()) <= 150


@pytest.mark.parametrize("page", _named(PAGES))
def test_links_lead_to_files_and_headings_that_exist(page: Path) -> None:
    for link in links(page):
        path, _, anchor = link.partition("#")
        # The API's anchors are Python names, which the strict build looks up.
        if "://" in link or (not path and anchor.startswith("hiplora.")):
            continue
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), f"{link} leads nowhere"
        assert not anchor or anchor in anchors(target), f"{link}: no such heading"


def _commands(text: str) -> Iterator[list[str]]:
    """Yield the arguments of every `hiplora` in a block of shell commands."""
    for line in text.splitlines():
        words = [WORDS.get(word, word) for word in shlex.split(line, comments=True)]
        if "hiplora" in words:
            yield words[words.index("hiplora") + 1 :]


@pytest.mark.parametrize("page", _named(PAGES))
def test_commands_exist_with_their_options(page: Path) -> None:
    for block in blocks(page, "bash"):
        for command in _commands(block.text):
            build_parser().parse_args(command)


def _commands_by_name() -> dict[str, argparse.ArgumentParser]:
    return next(a for a in build_parser()._actions if isinstance(a, argparse._SubParsersAction)).choices


@pytest.mark.parametrize("page", _named(PAGES))
def test_commands_named_in_running_text_exist(page: Path) -> None:
    known = _commands_by_name()
    options = {option for parser in known.values() for option in parser._option_string_actions}
    for code in inline_code(page):
        words = code.split()
        if words[0] == "hiplora" and len(words) > 1 and words[1] != "COMMAND":
            assert words[1] in known, code
            assert {word for word in words if word.startswith("--")} <= set(known[words[1]]._option_string_actions)
        elif words[0].startswith("--"):
            assert words[0] in options, code


@pytest.mark.parametrize(
    "page", _named([page for page in PAGES if any(block.runs for block in blocks(page, "python"))])
)
def test_programs_run_and_print_what_is_shown(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The programs of one page run in order and share their names."""
    (tmp_path / "assets").symlink_to(ROOT / "assets")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HIPLORA_RUNS", str(tmp_path / "user-runs"))
    # No browser opens.
    monkeypatch.setattr(plotly.io.renderers, "default", "")
    names: dict[str, object] = {"__name__": "__main__"}
    for block in blocks(page, "python"):
        if block.runs:
            printed = io.StringIO()
            with redirect_stdout(printed):
                exec(compile("\n" * (block.line - 1) + block.text, page, "exec"), names)
            if block.output:
                assert printed.getvalue() == block.output


def test_the_tour_asks_the_questions_of_the_app() -> None:
    rows = [line.split(" | ") for line in (ROOT / "docs" / "app.md").read_text().splitlines() if line.startswith("| ")]
    told = {title.removeprefix("| "): question for title, question, _ in rows}
    assert {page.title: page.question for page in APP.values()}.items() <= told.items()
