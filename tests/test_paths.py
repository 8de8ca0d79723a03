from pathlib import Path

from hiplora.paths import runs_root


def test_runs_lie_where_the_environment_says_or_in_the_users_data(monkeypatch, tmp_path):
    monkeypatch.setenv("HIPLORA_RUNS", str(tmp_path / "mine"))
    assert runs_root() == tmp_path / "mine"
    monkeypatch.setenv("HIPLORA_RUNS", "")
    assert runs_root().is_absolute()
    assert runs_root().parts[-2:] == ("hiplora", "runs")
    assert isinstance(runs_root(), Path)
