from pathlib import Path

from hiplora.files import user_path
from hiplora.paths import demo_adapters, demo_base, portable, runs_root


def test_runs_lie_where_the_environment_says_or_in_the_users_data(monkeypatch, tmp_path):
    monkeypatch.setenv("HIPLORA_RUNS", str(tmp_path / "mine"))
    assert runs_root() == tmp_path / "mine"
    monkeypatch.setenv("HIPLORA_RUNS", "")
    assert runs_root().is_absolute()
    assert runs_root().parts[-2:] == ("hiplora", "runs")
    assert isinstance(runs_root(), Path)


def test_a_path_is_named_as_it_opens_from_here(monkeypatch, tmp_path):
    shipped = demo_adapters()[0]
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert portable(demo_base()) == "demo"
    assert portable(shipped) == shipped.name
    assert portable(tmp_path / "runs" / "mine") == "runs/mine"
    assert portable(tmp_path / "mine") == "./mine"
    assert portable("as/it/stands") == "as/it/stands"
    (tmp_path / shipped.name).mkdir()
    assert portable(shipped) == str(shipped)
    monkeypatch.chdir(Path(tmp_path.anchor))
    monkeypatch.setattr(Path, "cwd", lambda: tmp_path / "elsewhere")
    assert portable(tmp_path / "home" / "models" / "base") == "~/models/base"
    assert user_path("~/models/base") == tmp_path / "home" / "models" / "base"
    assert portable(tmp_path / "other") == str(tmp_path / "other")
