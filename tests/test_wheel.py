"""The wheel alone is enough: library, command, app and demo world, with nothing of the checkout on the path."""

import os
import re
import signal
import subprocess
import sys
import sysconfig
import urllib.request
import venv
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

import hiplora

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def elsewhere(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that has nothing to do with the checkout."""
    return tmp_path_factory.mktemp("elsewhere")


@pytest.fixture(scope="module")
def wheel(elsewhere: Path) -> Path:
    """The wheel, built by the backend of this environment, so that nothing is fetched."""
    _pip("wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", str(elsewhere), str(ROOT))
    (built,) = elsewhere.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def scripts(wheel: Path, elsewhere: Path) -> Path:
    """The commands of a new environment with the wheel in it, which borrows its dependencies from this one."""
    venv.create(elsewhere / "env", symlinks=os.name != "nt")
    paths = sysconfig.get_paths(vars={"base": str(elsewhere / "env"), "platbase": str(elsewhere / "env")})
    scripts = Path(paths["scripts"])
    _pip("--python", str(scripts / "python"), "install", "--no-deps", "--no-index", str(wheel))
    # The folder only: a .pth file in it, such as that of an editable install, is not followed.
    (Path(paths["purelib"]) / "borrowed.pth").write_text(sysconfig.get_path("purelib"))
    return scripts


def _pip(*arguments: str) -> None:
    done = subprocess.run([sys.executable, "-m", "pip", *arguments], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def _environment() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}


def _output(*command: str | Path, cwd: Path) -> str:
    done = subprocess.run(command, cwd=cwd, env=_environment(), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_wheel_holds_the_package_and_the_app_and_nothing_else(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    assert {name.split("/")[0] for name in names} == {"hiplora", f"hiplora-{hiplora.__version__}.dist-info"}
    tracked = subprocess.run(
        ["git", "ls-files", "-coz", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    site = [name for name in tracked.split("\0") if name.split("/")[0] in ("app.py", "pages", "assets", ".streamlit")]
    package = [name for name in tracked.split("\0") if name.startswith("hiplora/")]
    assert {name for name in names if ".dist-info" not in name} == {
        *package,
        *(f"hiplora/_site/{name}" for name in site),
    }
    assert "hiplora/py.typed" in names


def test_import_comes_from_the_wheel(scripts: Path, elsewhere: Path) -> None:
    program = "import sys, hiplora; print(hiplora.__file__, *sys.path, sep='\\n')"
    file, *path = _output(scripts / "python", "-I", "-c", program, cwd=elsewhere).splitlines()
    assert Path(file).is_relative_to(elsewhere / "env")
    assert str(ROOT) not in path


def test_version_is_that_of_the_checkout(scripts: Path, elsewhere: Path) -> None:
    assert _output(scripts / "hiplora", "--version", cwd=elsewhere) == f"hiplora {hiplora.__version__}"
    program = "from importlib.metadata import version; print(version('hiplora'))"
    assert _output(scripts / "python", "-I", "-c", program, cwd=elsewhere) == hiplora.__version__


def test_demo_world_is_inside(scripts: Path, elsewhere: Path) -> None:
    out = _output(scripts / "hiplora", "analyze", "demo", "swap-lora", "--k", "4", cwd=elsewhere)
    assert out.startswith("| Adapter ")
    assert re.search(r"^swap-lora: ", out, re.MULTILINE)


@pytest.fixture
def address(scripts: Path, elsewhere: Path) -> Iterator[str]:
    """The address at which `hiplora app` says that it serves."""
    command = [scripts / "hiplora", "app", "--server.port", "0", "--server.headless", "true"]
    process = subprocess.Popen(command, cwd=elsewhere, env=_environment(), stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    said = ""
    while not (found := re.search(r"http://\S+:\d+", said)):
        line = process.stdout.readline()
        assert line, said
        said += line
    yield found[0]
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=30)


def test_app_answers(address: str) -> None:
    assert urllib.request.urlopen(f"{address}/_stcore/health").read() == b"ok"
    assert b"<!doctype html>" in urllib.request.urlopen(address).read().lower()


def test_app_draws_its_first_page(scripts: Path, elsewhere: Path) -> None:
    program = """
from hiplora.paths import site_root
from streamlit.testing.v1 import AppTest

page = AppTest.from_file(str(site_root() / "app.py"), default_timeout=120).run()
assert not page.exception, page.exception
print(page.title[0].value)
"""
    said = _output(scripts / "python", "-I", "-c", program, cwd=elsewhere)
    assert said == "What does this adapter change in its base?"
