import pytest

from hiplora.paths import site_root


@pytest.fixture
def in_the_app(monkeypatch, tmp_path):
    """Pages find their assets, and no runs of anyone."""
    monkeypatch.setenv("HIPLORA_RUNS", str(tmp_path / "runs"))
    monkeypatch.chdir(site_root())
