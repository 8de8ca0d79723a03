"""The documentation is built without a warning, and its generated parts hold what the code holds."""

import os
import re
import subprocess
import sys
import tomllib
from html import unescape
from itertools import pairwise
from pathlib import Path
from types import ModuleType

import pytest

import hiplora
from hiplora import training
from hiplora.measures import DIFFERENCES, MEASURES
from hiplora.paths import demo_adapters
from hiplora.training import METHODS
from tests.docs.reading import ROOT, tokens


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The built pages."""
    out = tmp_path_factory.mktemp("site")
    done = subprocess.run(
        [sys.executable, "-m", "sphinx", "-q", "-n", "-W", "--keep-going", "-d", f"{out}-doctrees", "docs", out],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return out


def _layers() -> list[list[str]]:
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    layers = next(contract["layers"] for contract in contracts if contract["type"] == "layers")
    return [layer.split(" | ") for layer in layers]


def test_every_measure_has_its_formula_and_null_on_the_measures_page(site: Path) -> None:
    page = unescape((site / "measures.html").read_text())
    for info in [*MEASURES.values(), *DIFFERENCES.values()]:
        assert f">{info.name}<" in page
        assert info.formula in page
        assert info.null in page


def test_every_training_method_is_on_the_page_of_runs(site: Path) -> None:
    page = unescape((site / "runs.html").read_text())
    for method in METHODS.values():
        assert f">{method.key}<" in page
        assert method.summary in page


@pytest.mark.parametrize("package", [hiplora, training], ids=lambda package: package.__name__)
def test_every_public_name_is_on_the_page_of_the_api(site: Path, package: ModuleType) -> None:
    page = (site / "api.html").read_text()
    modules = {name for name in package.__all__ if isinstance(getattr(package, name), ModuleType)}
    constants = {name for name in package.__all__ if name.isupper() or name.startswith("_")}
    for name in set(package.__all__) - modules - constants:
        assert f'id="{package.__name__}.{name}"' in page


def test_the_gallery_links_to_a_report_on_each_of_the_demos_adapters(site: Path) -> None:
    page = (site / "gallery.html").read_text()
    reports = [site / link for link in re.findall(r'href="(gallery/\w+\.html)"', page)]
    titles = [unescape(re.findall("<title>(.*?)</title>", path.read_text())[0]) for path in reports]
    named = {name for title in titles for name in title.removesuffix(" on demo").split(", ")}
    assert named == {path.name for path in demo_adapters()}
    assert len(named) == 6


def test_picture_of_the_layers_shows_the_contract_from_top_to_bottom(site: Path) -> None:
    picture = re.search(r"<svg viewBox.*?</svg>", (site / "architecture.html").read_text(), re.DOTALL)
    assert picture is not None
    places = re.findall(r'<text x="[\d.]+" y="([\d.]+)" font-weight="600"[^>]*>([\w.]+)<', picture[0])
    height = {room: float(y) for y, room in places}
    assert list(height) == [room for layer in _layers() for room in layer]
    assert all(height[room] == height[layer[0]] for layer in _layers() for room in layer)
    assert all(height[upper[0]] < height[lower[0]] for upper, lower in pairwise(_layers()))


def test_the_one_way_goes_up_the_layers() -> None:
    floors = {room: -number for number, layer in enumerate(_layers()) for room in layer}
    cells = [part.content for part in tokens(ROOT / "docs" / "architecture.md") if part.type == "inline"]
    rooms = [cell.strip("`") for cell in cells if cell.strip("`") in floors]
    assert len(rooms) == 9
    assert [floors[room] for room in rooms] == sorted(floors[room] for room in rooms)
