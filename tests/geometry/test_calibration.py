"""What reaches the maps of a base on a text: observed, kept, resumed, refused."""

import json
import os
import shutil
import threading

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file
from transformers import (
    AutoModelForCausalLM,
    BertConfig,
    BertForSequenceClassification,
    LlamaConfig,
    LlamaForCausalLM,
)

from hiplora.demo.tokenizer import VOCABULARY, build_tokenizer
from hiplora.errors import HiploraError
from hiplora.geometry import Calibration, InputSpectra, Text, default_text, read_text
from hiplora.geometry.collect import observe
from hiplora.geometry.texts import sequences
from hiplora.sources import open_base
from hiplora.spectrum import BaseSpectra, SpectrumCache


@pytest.fixture
def spectra(readable, tmp_path):
    """Return `make(architecture)`: spectra with a cache of the test's own."""
    return lambda name: BaseSpectra(open_base(readable[name]), SpectrumCache(tmp_path / "cache"))


def observed(folder, lines, module):
    """Return the second moment of what a module gets from each line alone, float64."""
    model, tokenizer, found = AutoModelForCausalLM.from_pretrained(folder).eval(), build_tokenizer(), []
    model.get_submodule(module).register_forward_pre_hook(lambda _, x: found.append(x[0][0].double()))
    with torch.no_grad():
        for line in lines:
            model(input_ids=torch.tensor([tokenizer(line).input_ids]))
    X = torch.cat(found).numpy()
    return X.T @ X / len(X)


@pytest.mark.parametrize(
    ("architecture", "module"),
    [
        ("llama", "model.layers.1.self_attn.v_proj"),
        ("llama", "model.layers.0.mlp.down_proj"),
        ("llama", "lm_head"),
        ("gpt2", "transformer.h.1.attn.c_attn"),
    ],
)
def test_moments_are_those_of_each_line_read_alone(spectra, readable, lines, architecture, module):
    calibration = Calibration(spectra(architecture), lines).complete()
    K = calibration.moments(module).root(np.eye(calibration.moments(module).size))
    expected = observed(readable[architecture], lines.lines, module)
    # Lines are read side by side, padded: float32 sums in another order, over two layers.
    np.testing.assert_allclose(K @ K, expected, rtol=0, atol=2e-5 * np.linalg.norm(expected, 2))


def test_maps_of_one_input_share_its_moments(spectra, lines):
    calibration = Calibration(spectra("llama"), lines).complete()
    maps = calibration.index["maps"]
    block = "model.layers.0"
    assert {maps[f"{block}.self_attn.{name}_proj"] for name in "qkv"} == {f"{block}.self_attn.q_proj"}
    assert {maps[f"{block}.mlp.{name}_proj"] for name in ("gate", "up")} == {f"{block}.mlp.gate_proj"}
    assert len(calibration.index["inputs"]) == 2 * 4 + 1
    assert len(maps) == 2 * 7 + 1


def test_what_is_kept_is_not_observed_again(spectra, lines, monkeypatch):
    first = Calibration(spectra("llama"), lines).complete()
    monkeypatch.setattr("hiplora.geometry.calibration.stream_causal_lm", lambda *_, **__: pytest.fail("loaded again"))
    again = Calibration(spectra("llama"), lines)
    assert again.ready
    assert again.complete().folder == first.folder
    other = Calibration(spectra("llama"), Text("other", lines.lines[::-1]))
    assert not other.ready


def test_a_stop_keeps_what_is_done(spectra, lines, monkeypatch):
    calibration = Calibration(spectra("llama"), lines)
    done = []
    for progress in calibration.run(lambda: len(done) > 5):
        done.append(progress)
    assert 5 < len(done) < 15
    assert not calibration.ready
    kept = {file: file.stat().st_mtime_ns for file in calibration.folder.glob("*.safetensors")}
    assert kept
    last = list(calibration.run())[-1]
    assert (last.done, last.share) == (15, 1.0)
    assert calibration.ready
    assert {file: file.stat().st_mtime_ns for file in kept} == kept


def test_a_stop_before_the_first_input_leaves_nothing(spectra, lines):
    calibration = Calibration(spectra("llama"), lines)
    list(calibration.run(lambda: True))
    assert not calibration.folder.exists()


@pytest.mark.parametrize(("text", "reason"), [("", "is empty"), ("  \n\n", "is empty"), ("abc\n", "has 4 tokens")])
def test_an_empty_or_tiny_text_is_one_sentence(spectra, tmp_path, text, reason):
    (tmp_path / "tiny.txt").write_text(text)
    with pytest.raises(HiploraError, match=rf"tiny\.txt {reason}"):
        Calibration(spectra("llama"), read_text(tmp_path / "tiny.txt")).complete()


def test_what_is_not_text_is_one_sentence(tmp_path):
    (tmp_path / "x.bin").write_bytes(b"\xff\xfe\x00\x80")
    with pytest.raises(HiploraError, match=r"x\.bin cannot be read as text in UTF-8"):
        read_text(tmp_path / "x.bin")
    with pytest.raises(HiploraError, match="is not a file: pass the path of a text file"):
        read_text(tmp_path / "absent.txt")


def test_a_text_that_the_base_does_not_know_is_said_and_read(spectra):
    text = Text("Gedicht", ("Ä Ö Ü ß Ä Ö Ü ß Ä Ö Ü ß",) * 30)
    calibration = Calibration(spectra("llama"), text).complete()
    assert any(note.startswith("The base hardly knows Gedicht (") for note in calibration.notes)


def test_padding_and_length_do_not_change_a_text_that_fits(spectra, lines):
    calibration = Calibration(spectra("llama"), lines, tokens=300).complete()
    assert calibration.index["tokens"] == 300
    assert calibration.name == "lines, 300 tokens"


def test_the_inputs_of_other_weights_are_refused(readable, lines, tmp_path):
    folder = tmp_path / "llama"
    shutil.copytree(readable["llama"], folder)
    spectra = BaseSpectra(open_base(folder), SpectrumCache(tmp_path / "cache"))
    Calibration(spectra, lines, beside=True).complete()
    assert Calibration(spectra).index["text"] == "lines"
    index = json.loads((folder / "inputs" / "inputs.json").read_text())
    (folder / "inputs" / "inputs.json").write_text(json.dumps(index | {"base": "0" * 64}))
    with pytest.raises(HiploraError, match=r"inputs holds the inputs of other weights than those of llama"):
        _ = Calibration(spectra).index
    (folder / "inputs" / "inputs.json").write_text(json.dumps(index | {"maps": None}))
    with pytest.raises(HiploraError, match=r"inputs\.json is damaged: remove"):
        _ = Calibration(spectra).index


@pytest.fixture
def own(readable, tmp_path):
    """Return the spectra of a copied base: a test may keep inputs beside it."""
    shutil.copytree(readable["llama"], tmp_path / "llama")
    return BaseSpectra(open_base(tmp_path / "llama"), SpectrumCache(tmp_path / "cache"))


def test_what_is_kept_beside_a_base_is_of_the_text_that_was_asked_for(own, lines):
    first = Calibration(own, lines, beside=True).complete().moments("lm_head")
    other = Text("other", tuple(line[::-1] for line in lines.lines))
    second = Calibration(own, other, beside=True)
    assert not second.ready
    list(second.run(lambda: True))
    assert second.complete().name.startswith("other, ")
    assert second.moments("lm_head").digest != first.digest
    assert Calibration(own).name == second.name


def test_inputs_that_are_removed_while_in_use_are_observed_in_the_cache(own, lines):
    Calibration(own, lines, beside=True).complete()
    found = Calibration(own)
    assert found.name.startswith("lines, ")
    shutil.rmtree(found.folder)
    assert not found.ready
    assert found.folder.parent == own.cache.folder / "inputs"


def test_the_caches_limit_holds_for_inputs_too(readable, lines, tmp_path):
    def calibration(cache, number):
        text = Text(str(number), tuple(line[number:] + line[:number] for line in lines.lines))
        return Calibration(BaseSpectra(open_base(readable["llama"]), cache), text)

    probe = SpectrumCache(tmp_path / "probe")
    calibration(probe, 0).complete()
    cache = SpectrumCache(tmp_path / "cache", limit=int(2.5 * probe.size()))
    for number, age in enumerate((300, 200)):
        folder = calibration(cache, number).complete().folder
        for file in folder.iterdir():
            os.utime(file, (10**9 - age, 10**9 - age))
    calibration(cache, 0).moments("lm_head")  # used again: the other is now the oldest
    calibration(cache, 2).complete()
    assert [calibration(cache, number).ready for number in range(3)] == [True, False, True]
    assert cache.size() <= cache.limit


def test_what_a_base_brings_along_has_its_own_length(own, lines):
    Calibration(own, lines, beside=True).complete()
    with pytest.raises(HiploraError, match="llama brings its own inputs along: name a text to observe another number"):
        Calibration(own, tokens=300)
    with pytest.raises(HiploraError, match="tokens must be at least 256, got 20"):
        Calibration(own, lines, tokens=20)


def test_a_tokenizer_of_another_model_is_one_sentence(own, lines, tmp_path):
    model = LlamaForCausalLM(
        LlamaConfig(**{**AutoModelForCausalLM.from_pretrained(own.base.path).config.to_dict(), "vocab_size": 9})
    )
    model.save_pretrained(own.base.path)
    small = BaseSpectra(open_base(own.base.path), SpectrumCache(tmp_path / "cache"))
    with pytest.raises(HiploraError, match="has a tokenizer with more tokens than the model's 9"):
        Calibration(small, lines).complete()


@pytest.fixture
def changed(own, tmp_path):
    """Return `make(change)`: the spectra of the copied base after a change of its model."""

    def make(change):
        model = AutoModelForCausalLM.from_pretrained(own.base.path)
        with torch.no_grad():
            change(model.model.layers[0])
        model.save_pretrained(own.base.path)
        return BaseSpectra(open_base(own.base.path), SpectrumCache(tmp_path / "cache"))

    return make


def test_a_base_that_computes_nan_is_one_sentence(changed, lines):
    broken = changed(lambda layer: layer.input_layernorm.weight.fill_(float("inf")))
    with pytest.raises(HiploraError, match="The base computes NaN or infinity on this text"):
        Calibration(broken, lines).complete()


def test_maps_that_get_nothing_but_zeros_are_measured_all_the_same(changed, lines):
    of_weights = changed(lambda layer: layer.self_attn.v_proj.weight.zero_())
    seen = InputSpectra(of_weights, Calibration(of_weights, lines))
    assert seen.get(seen.base.weights["model.layers.0.self_attn.o_proj"], 4).frobenius == 0


def test_a_large_text_is_read_as_far_as_it_is_needed(spectra, readable, lines):
    asked = []

    class Counting:
        unk_token_id = 3

        def __call__(self, text, **_):
            asked.append(sum(map(len, [text] if isinstance(text, str) else text)))
            return build_tokenizer()(text)

    found = sequences(Text("large", lines.lines * 2000), Counting(), 64, 300)
    assert sum(map(len, found)) == 300
    assert max(asked) <= 16 * 300


def test_one_long_line_does_not_pad_all_others():
    text = Text("mixed", ("abc",) * 200 + ("a" * 5000,))
    found = sequences(text, build_tokenizer(), 512, 8192)
    assert max(map(len, found)) <= 1 + 4 * 3
    assert sum(map(len, found)) >= 5000


def test_perplexity_is_that_of_the_first_sequences_read_alone(readable):
    model = AutoModelForCausalLM.from_pretrained(readable["llama"]).eval()
    sequences = torch.randint(4, 40, (60, 32)).tolist()
    sequences[1] = sequences[1][:20]
    found = []
    list(observe(model, [], sequences, lambda *_: None, lambda: False, found.append))
    # 1024 tokens are foretold in the first 34 sequences: 33 of 31, and one of 19.
    losses = [
        (model(input_ids=ids, labels=ids).loss, ids.numel() - 1)
        for ids in map(torch.tensor, ([s] for s in sequences[:34]))
    ]
    expected = sum(loss.item() * count for loss, count in losses) / sum(count for _, count in losses)
    assert np.log(found) == pytest.approx(expected, rel=1e-6)


def test_a_model_of_another_head_is_observed_up_to_its_head(readable, lines, tmp_path):
    model = BertForSequenceClassification(
        BertConfig(
            vocab_size=len(VOCABULARY),
            hidden_size=24,
            intermediate_size=32,
            num_hidden_layers=1,
            num_attention_heads=2,
            max_position_embeddings=64,
        )
    )
    model.save_pretrained(tmp_path / "bert")
    build_tokenizer().save_pretrained(tmp_path / "bert")
    bert = BaseSpectra(open_base(tmp_path / "bert"), SpectrumCache(tmp_path / "cache"))
    calibration = Calibration(bert, lines).complete()
    assert len(calibration.index["maps"]) == 6
    assert calibration.index["perplexity"] is None


def test_closing_early_does_not_observe_the_rest(readable, lines):
    model = AutoModelForCausalLM.from_pretrained(readable["llama"]).eval()
    kept = []
    names = [name for name, module in model.named_modules() if isinstance(module, torch.nn.Linear)]
    ids = [build_tokenizer()(line).input_ids for line in lines.lines]

    def keep(name, compute):
        kept.append(name)
        reached.wait(60)

    reached = threading.Event()
    work = observe(model, names, ids, keep, lambda: False)
    threading.Timer(0.2, reached.set).start()
    next(work)
    work.close()
    assert len(kept) < 9


def test_a_damaged_file_is_one_sentence(spectra, lines):
    calibration = Calibration(spectra("llama"), lines).complete()
    for file in calibration.folder.glob("*.safetensors"):
        file.write_bytes(file.read_bytes()[:-8] + bytes(8))
    with pytest.raises(HiploraError, match="is damaged: remove"):
        calibration.moments("lm_head")


def test_a_model_that_is_not_causal_is_one_sentence(write_base, lines):
    folder = write_base("odd", {"a": np.eye(4)}, model_type="vit")
    with pytest.raises(HiploraError):
        Calibration(BaseSpectra(open_base(folder)), lines).complete()


def test_english_comes_with_python():
    assert sum(map(len, default_text().lines)) > 100_000


def test_spectra_of_products_are_prepared_with_their_inputs(spectra, lines):
    of_weights = spectra("llama")
    seen = InputSpectra(of_weights, Calibration(of_weights, lines))
    weights = [of_weights.base.weights[name] for name in of_weights.base.linear_maps]
    assert len(seen.missing(weights, 4)) == len(weights)
    reported = list(seen.prepare(weights, 4))
    assert seen.missing(weights, 4) == []
    assert reported[-1].share == 1.0
    W = seen.base.read(weights[0]).astype(np.float64)
    moments = seen.calibration.moments(weights[0].module)
    expected = np.linalg.svd(moments.root(W), compute_uv=False)[:4]
    np.testing.assert_allclose(seen.get(weights[0], 4).sigma, expected, rtol=1e-12)
    # The weights' own spectra are others, under other keys.
    assert len(of_weights.missing(weights, 4)) == len(weights)


@pytest.mark.parametrize("changed", ["norms", "config", "tokenizer"])
def test_a_base_that_differs_in_anything_that_inputs_depend_on_is_another(tmp_path, changed):
    """Matrices alike, inputs not: the calibration that came along is not taken for this base's."""
    base = tmp_path / "base"
    shutil.copytree(open_base("demo").path, base)
    if changed == "norms":
        path = base / "model.safetensors"
        tensors = load_file(path)
        save_file({key: 3 * value if value.ndim == 1 else value for key, value in tensors.items()}, path)
    else:
        path = base / {"config": "config.json", "tokenizer": "tokenizer.json"}[changed]
        content = path.read_text()
        path.write_text(
            content.replace('"rms_norm_eps": ', '"rms_norm_eps": 1') if changed == "config" else content + "\n"
        )
    with pytest.raises(HiploraError, match="holds the inputs of other weights"):
        _ = Calibration(BaseSpectra(open_base(base))).notes
