"""What reaches the maps of a base on a text: observed, kept, resumed, refused."""

import json
import shutil

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from hiplora.demo.tokenizer import build_tokenizer
from hiplora.errors import HiploraError
from hiplora.geometry import Calibration, InputSpectra, Text, default_text, read_text
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
    monkeypatch.setattr("hiplora.geometry.calibration.load_causal_lm", lambda *_, **__: pytest.fail("loaded again"))
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
    with pytest.raises(HiploraError, match="is not a file: pass a text file"):
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
