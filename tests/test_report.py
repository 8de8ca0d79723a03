"""A study as one HTML page: what stands in it, and what cannot."""

import base64
import gzip
import hashlib
import html
import json
import re
import shutil
from pathlib import Path

import plotly.graph_objects as go
import plotly.offline
import pytest
from peft import LoraConfig

import hiplora
from hiplora.errors import HiploraError
from hiplora.measures import summary_words
from hiplora.study import Study

LIMIT = 2_000_000
"""Bytes of the report on the demo."""


@pytest.fixture(scope="module")
def study() -> Study:
    return hiplora.open("demo", ["swap-lora", "swap-hiplora"])


@pytest.fixture(scope="module")
def page(study: Study) -> str:
    return study.to_html()


def packed(page: str, name: str) -> str:
    """Return what the browser unpacks from an element."""
    found = re.search(rf'id="{name}">(.*?)</script>', page, re.DOTALL)
    assert found
    return gzip.decompress(base64.b85decode(found[1].translate(str.maketrans(",.", "<&")))).decode()


def rows_of(page: str) -> list[list[str]]:
    """Return the cells of every row of every table."""
    rows = re.findall(r"<tr>(.*?)</tr>", page, re.DOTALL)
    return [[html.unescape(cell) for cell in re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", row)] for row in rows]


def programs_of(page: str) -> list[str]:
    found = re.findall(r"<pre><code>(.*?)</code></pre>", page, re.DOTALL)
    return [html.unescape(program) for program in found if "import" in program]


def test_the_report_on_the_demo_is_small(page: str) -> None:
    assert len(page.encode()) <= LIMIT


def test_the_same_study_gives_the_same_page_and_the_same_file(page: str, tmp_path: Path) -> None:
    hiplora.open("demo", ["swap-lora", "swap-hiplora"]).to_html(tmp_path / "new" / "report.html")
    assert (tmp_path / "new" / "report.html").read_text(encoding="utf-8") == page
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["report.html"]


def test_the_browser_unpacks_plotlys_own_script(page: str) -> None:
    assert packed(page, "plotly") == plotly.offline.get_plotlyjs()


def test_nothing_but_its_two_scripts_may_run_and_nothing_may_be_loaded(page: str) -> None:
    policy = re.search(r'Content-Security-Policy" content="(.*?)"', page)
    assert policy
    rules = dict(rule.split(" ", 1) for rule in html.unescape(policy[1]).split("; "))
    assert rules["default-src"] == "'none'"
    loader = re.findall(r"<script>(.*?)</script>", page, re.DOTALL)
    assert len(loader) == 1
    digests = [
        base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
        for script in (loader[0], plotly.offline.get_plotlyjs())
    ]
    assert rules["script-src"] == " ".join(f"'sha256-{digest}'" for digest in digests)
    assert not re.search(r"""(src|href)=["']""", page.split("<script")[0])


def test_every_finding_and_every_row_of_the_summary_stands_there(study: Study, page: str) -> None:
    text = html.unescape(page)
    for judged in study.judgements().values():
        assert all(sentence in text for sentence in (judged.verdict, judged.advice, judged.reason))
    rows = rows_of(page)
    for row in summary_words(study.summary()).to_numpy().tolist():
        assert row in rows


def test_every_file_that_was_read_has_its_hash(study: Study, page: str) -> None:
    found = {(whose, what): digest for whose, what, digest in (row for row in rows_of(page) if len(row) == 3)}
    for update in study.updates:
        assert update.folder
        for path in update.folder.glob("*.*"):
            if path.suffix in (".json", ".safetensors"):
                assert found[update.name, path.name] == hashlib.sha256(path.read_bytes()).hexdigest()
    config = study.base.path / "config.json"
    assert found["demo", "config.json"] == hashlib.sha256(config.read_bytes()).hexdigest()
    weights = hashlib.sha256("".join(study.spectra.weight_hash(weight) for weight in study.weights).encode())
    assert found["demo", "hashes of its 28 weights that are changed"] == weights.hexdigest()


def test_the_python_below_each_figure_draws_it_and_holds_no_path_of_this_machine(
    page: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    drawings = json.loads(packed(page, "drawings"))
    programs = programs_of(page)
    assert len(programs) == len(drawings) > 8
    drawn: list[go.Figure] = []
    monkeypatch.setattr(go.Figure, "show", lambda figure: drawn.append(figure))
    for program, drawing in zip(programs, drawings, strict=True):
        assert str(Path.home()) not in program
        assert str(Path(hiplora.__file__).parent.parent) not in program
        exec(program, {})
        assert json.loads(drawn[-1].to_json())["data"] == drawing["data"]


def test_the_python_names_files_below_the_current_folder_by_their_relative_paths(
    llama_base: Path, lora_folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    shutil.copytree(llama_base, tmp_path / "base")
    shutil.copytree(lora_folder, tmp_path / "runs" / "mine")
    monkeypatch.chdir(tmp_path)
    page = hiplora.open(tmp_path / "base", [tmp_path / "runs" / "mine"], k=4).to_html()
    assert "hiplora.open('./base', ['runs/mine'], k=4)" in programs_of(page)[0]
    assert "hiplora report ./base runs/mine --k 4 --out report.html" in page
    assert str(tmp_path) not in page


def test_a_name_that_is_markup_is_shown_as_text(llama_base: Path, lora_folder: Path, tmp_path: Path) -> None:
    name = "<img src=x onerror=document.title=1>&\x1b\N{RIGHT-TO-LEFT OVERRIDE}"
    shutil.copytree(lora_folder, tmp_path / name)
    page = hiplora.open(llama_base, [tmp_path / name], k=4).to_html()
    assert "<img" not in page
    assert not {"\x1b", "\N{RIGHT-TO-LEFT OVERRIDE}"} & set(page)
    assert r"&lt;img src=x onerror=document.title=1&gt;&amp;\x1b\u202e" in page


def test_caveats_and_refusals_stand_beside_the_numbers(
    llama_base: Path, make_adapter: object, lora_folder: Path, tmp_path: Path
) -> None:
    make_adapter(llama_base, tmp_path / "idle", LoraConfig(r=2, target_modules=["q_proj"]), zero=True)  # type: ignore[operator]
    study = hiplora.open(llama_base, [tmp_path / "idle", "swap-lora", tmp_path / "absent"], k=4, strict=False)
    text = html.unescape(study.to_html())
    assert study.caveats["idle"]
    for sentence in (*study.caveats["idle"], *study.refusals):
        assert f">{sentence}<" in text or f"Not measured: {sentence}" in text
    assert len(study.refusals) == 2


def test_a_report_of_the_inputs_says_so_and_names_their_hash(study: Study) -> None:
    inputs = study.at(geometry="inputs")
    page = inputs.to_html()
    assert inputs.calibration
    assert f"as its inputs on {inputs.calibration.name} reach them" in html.unescape(page)
    assert any(row[:2] == [inputs.calibration.name, "hashes of what reaches 28 of them"] for row in rows_of(page))
    assert "--geometry inputs" in page


def test_a_report_that_cannot_be_written_leaves_nothing_behind(study: Study, tmp_path: Path) -> None:
    with pytest.raises(HiploraError, match="is a folder: name a file in it"):
        study.to_html(tmp_path)
    with pytest.raises(HiploraError, match="There is nothing to report"):
        hiplora.open("demo").to_html(tmp_path / "empty.html")
    assert list(tmp_path.iterdir()) == []
