"""The dependencies are those that are imported, and both locks pin them, the same, for every machine."""

import ast
import re
import tomllib
from functools import cache
from importlib.metadata import PackageNotFoundError, distribution, packages_distributions
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
LOCKS = ["requirements.txt", "tests/requirements.txt"]
OPTIONAL = {"bitsandbytes", "diffusers", "mcp"}
"""Used where they are installed, and named where they are missing."""
NEEDED_BY_OTHERS = {"pyarrow", "python-multipart", "starlette"}
"""Declared, since what is imported does not ask for them, or not for a version that is safe."""
CUDA = ("cuda-", "nvidia-", "triton")
LOCKED = re.compile(r"([a-z0-9-]+)==([^ ;]+)( ; .+)?")


@cache
def declared() -> dict[str, Requirement]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    return {canonicalize_name(found.name): found for found in map(Requirement, project["dependencies"])}


@cache
def locked(lock: str) -> dict[str, Requirement]:
    lines = [line for line in (ROOT / lock).read_text().splitlines() if line and not line.lstrip().startswith("#")]
    # No hash, since torch's depends on the build, and no address.
    assert [line for line in lines if not LOCKED.fullmatch(line)] == []
    return {found.name: found for found in map(Requirement, lines)}


def _imported(file: Path) -> set[str]:
    nodes = list(ast.walk(ast.parse(file.read_text())))
    names = [alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names]
    names += [node.module or "" for node in nodes if isinstance(node, ast.ImportFrom) and not node.level]
    return {name.partition(".")[0] for name in names}


def test_dependencies_are_what_is_imported() -> None:
    files = [ROOT / "app.py", *(ROOT / "pages").rglob("*.py"), *(ROOT / "hiplora").rglob("*.py")]
    names = set().union(*map(_imported, files)) - {"hiplora"}
    homes = packages_distributions()
    found = {canonicalize_name(home) for name in names for home in homes.get(name, ())}
    assert found - OPTIONAL == set(declared()) - NEEDED_BY_OTHERS


@pytest.mark.parametrize("lock", LOCKS)
def test_lock_keeps_to_the_ranges(lock: str) -> None:
    for name, requirement in declared().items():
        (pin,) = locked(lock)[name].specifier
        assert requirement.specifier.contains(pin.version), f"{name} {pin.version} is outside {requirement}"


@pytest.mark.parametrize("lock", LOCKS)
def test_lock_leaves_cuda_to_torch(lock: str) -> None:
    assert [name for name in locked(lock) if name.startswith(CUDA)] == []


def test_what_is_tested_is_what_the_app_runs_on() -> None:
    app, tests = map(locked, LOCKS)
    assert {name: tests.get(name) for name in app} == app


@pytest.mark.parametrize("python", ["3.11", "3.12", "3.13"])
@pytest.mark.parametrize(("system", "machine"), [("linux", "x86_64"), ("linux", "aarch64"), ("darwin", "arm64")])
@pytest.mark.parametrize("lock", LOCKS)
def test_lock_holds_what_a_machine_needs_and_nothing_else(lock: str, system: str, machine: str, python: str) -> None:
    """As far as the packages installed here tell: their metadata has the markers of all systems."""
    here = {"sys_platform": system, "platform_system": system.title(), "platform_machine": machine}
    here |= {"python_version": python, "python_full_version": f"{python}.0"}
    pins = {name: found for name, found in locked(lock).items() if not found.marker or found.marker.evaluate(here)}
    needed: dict[str, set[str]] = {}
    waiting = [Requirement("hiplora[test]" if lock.startswith("tests/") else "hiplora")]
    while waiting:
        wanted = waiting.pop()
        name, extras = canonicalize_name(wanted.name), {"", *wanted.extras}
        if name.startswith(CUDA) or extras <= needed.get(name, set()):
            continue
        assert name == "hiplora" or wanted.specifier.contains(next(iter(pins[name].specifier)).version)
        needed[name] = needed.get(name, set()) | extras
        version, asked = _metadata(name)
        if name in pins and version and not pins[name].specifier.contains(version):
            pytest.skip(f"{name} {version} is installed, not the locked {pins[name].specifier}")
        for other in asked:
            if not other.marker or any(other.marker.evaluate(here | {"extra": extra}) for extra in extras):
                waiting.append(other)
    assert set(needed) - {"hiplora"} == set(pins)


@cache
def _metadata(name: str) -> tuple[str, list[Requirement]]:
    try:
        found = distribution(name)
    except PackageNotFoundError:
        return "", []
    return found.version, list(map(Requirement, found.requires or []))
