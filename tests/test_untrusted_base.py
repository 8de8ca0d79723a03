"""The Python code that a base from a stranger brings along: nothing imports it, or asks whether to."""

import ast
import io
import json
import shutil
import sys
from pathlib import Path

import pytest

from hiplora.cli import main
from hiplora.demo import adapter_path, base_path
from hiplora.sources.transformers_models import load_causal_lm, load_tokenizer
from hiplora.training import Run, RunConfig
from hiplora.training.train import train

REPOSITORY = Path(__file__).parents[1]


@pytest.fixture
def marker(tmp_path):
    """The file that the stranger's code leaves when it is imported."""
    return tmp_path / "imported"


@pytest.fixture
def stranger(tmp_path, marker):
    """Return `stranger(**config) -> folder`: the demo base with code of its own wherever transformers looks for it."""

    def write(**config):
        folder = tmp_path / "stranger"
        shutil.copytree(base_path(), folder)
        code = f"import pathlib\npathlib.Path({str(marker)!r}).touch()\n"
        code += "from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast\n"
        code += "generate = None\n"
        for name in ("own.py", "custom_generate/generate.py"):
            (folder / name).parent.mkdir(exist_ok=True)
            (folder / name).write_text(code)
        own = {
            "AutoConfig": "own.LlamaConfig",
            "AutoModel": "own.LlamaForCausalLM",
            "AutoModelForCausalLM": "own.LlamaForCausalLM",
            "AutoTokenizer": ["own.PreTrainedTokenizerFast", "own.PreTrainedTokenizerFast"],
        }
        pipelines = {"text-generation": {"impl": "own.LlamaForCausalLM", "pt": ["AutoModelForCausalLM"]}}
        for name, fields in (
            ("config.json", {"auto_map": own, "custom_pipelines": pipelines, **config}),
            ("tokenizer_config.json", {"auto_map": own}),
        ):
            path = folder / name
            path.write_text(json.dumps(json.loads(path.read_text()) | fields))
        return folder

    return write


@pytest.fixture(autouse=True)
def _nothing_is_imported_or_asked(marker, monkeypatch, tmp_path):
    monkeypatch.setenv("HIPLORA_RUNS", str(tmp_path / "runs"))
    answers = io.StringIO("y\n" * 99)
    monkeypatch.setattr(sys, "stdin", answers)
    yield
    assert not marker.exists()
    assert answers.tell() == 0


SHORT = ("--steps", "2", "--batch-size", "4", "--threads", "1", "--method", "lora")


@pytest.mark.parametrize("model_type", ["llama", "own"])
def test_spectra_and_measures_need_no_code(stranger, model_type):
    folder = str(stranger(model_type=model_type))
    assert main(["svd", folder, "--k", "4"]) == 0
    assert main(["analyze", folder, str(adapter_path("swap-lora")), "--k", "4"]) == 0


def test_training_takes_transformers_own_class(stranger, tmp_path):
    assert main(["train", "--base", str(stranger()), "--out", str(tmp_path / "run"), *SHORT]) == 0


def test_resuming_takes_transformers_own_class(stranger, tmp_path):
    config = RunConfig(base=str(stranger()), task="swap", method="lora", steps=4, batch_size=4, save_every=2, threads=1)
    run = Run.create(tmp_path / "run", config)
    train(run, lambda: bool(run.checkpoints))
    assert run.status.state == "stopped"
    assert main(["train", "--resume", str(run.path)]) == 0
    assert run.status.state == "finished"


def test_training_on_a_file_takes_the_tokenizer_that_is_there(stranger, tmp_path):
    (tmp_path / "text.txt").write_text("copy abc=abc " * 200)
    options = ("--data", str(tmp_path / "text.txt"), "--max-length", "32", *SHORT)
    assert main(["train", "--base", str(stranger()), *options]) == 0


@pytest.mark.parametrize("model_type", ["own", "vit"])
def test_a_model_that_transformers_cannot_load_itself_is_refused_in_one_sentence(stranger, model_type, capsys):
    folder = stranger(model_type=model_type)
    assert main(["train", "--base", str(folder), *SHORT]) == 2
    said = capsys.readouterr().err.splitlines()
    assert said[-1] == (
        f"hiplora: {folder / 'config.json'} cannot be loaded as a causal language model by transformers without the "
        "Python code that it names (auto_map), which is never run: pass a base whose architecture transformers knows."
    )


@pytest.mark.parametrize("auto_map", [{"AutoTokenizer": []}, {"AutoTokenizer": 3}, {"AutoTokenizer": ["own.X"]}])
def test_a_tokenizer_that_transformers_cannot_load_is_refused_in_one_sentence(stranger, auto_map, capsys):
    path = stranger() / "tokenizer_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"auto_map": auto_map}))
    assert main(["train", "--base", str(path.parent), *SHORT]) == 2
    said = capsys.readouterr().err.splitlines()
    assert said[-1].startswith(f"hiplora: {path.parent} has no tokenizer that transformers can load (")
    assert said[-1].endswith("): put the model's tokenizer.json and tokenizer_config.json beside its weights.")


def test_a_kernel_of_the_hub_is_not_asked_for(stranger):
    model = load_causal_lm(stranger(attn_implementation="stranger/kernel"))
    assert model.config._attn_implementation in ("sdpa", "eager")


def test_an_adapter_beside_the_base_is_not_put_on_it(stranger, lora_folder, capsys):
    folder = stranger()
    for path in lora_folder.glob("adapter_*"):
        shutil.copy(path, folder)
    assert main(["train", "--base", str(folder), *SHORT]) == 2
    assert "holds an adapter beside the model (adapter_config.json)" in capsys.readouterr().err.splitlines()[-1]


def test_pickles_beside_the_base_are_not_opened(stranger, tmp_path):
    folder = stranger()
    (folder / "model.safetensors").rename(tmp_path / "model.safetensors")
    (folder / "pytorch_model.bin").write_bytes(b"never read")
    with pytest.raises(ValueError, match=r"no file named model\.safetensors"):
        load_causal_lm(folder)


def test_exporting_an_adapter_of_the_base_needs_no_code(stranger, tmp_path):
    folder = tmp_path / "adapter"
    shutil.copytree(adapter_path("swap-hiplora"), folder)
    config = folder / "adapter_config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"base_model_name_or_path": str(stranger())}))
    assert main(["export-lora", str(folder), str(tmp_path / "out")]) == 0


@pytest.mark.parametrize("page", sorted(path.stem for path in (REPOSITORY / "pages").glob("*.py")))
def test_pages_need_no_code(stranger, page, monkeypatch):
    import streamlit as st
    from streamlit.testing.v1 import AppTest

    monkeypatch.chdir(REPOSITORY)
    app = AppTest.from_file(str(REPOSITORY / "app.py"), default_timeout=120)
    folder = str(stranger())
    app.query_params["base"] = folder
    app.query_params["adapters"] = [str(adapter_path("swap-lora")), str(adapter_path("swap-hiplora"))]
    app.switch_page(f"pages/{page}.py").run()
    assert not app.exception
    assert app.title
    assert folder in [box.value for box in app.selectbox]
    # Processes that wait to train end with what holds them.
    st.cache_resource.clear()


def test_models_are_loaded_in_one_place():
    """`PeftModel` is given a model that is loaded already."""
    files = [path for part in ("hiplora", "pages", "tests/benchmarks") for path in (REPOSITORY / part).rglob("*.py")]
    found = {
        f"{path.relative_to(REPOSITORY)}: {ast.unparse(node)}"
        for path in [REPOSITORY / "app.py", *files]
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Attribute) and node.attr == "from_pretrained"
    }
    assert {line for line in found if not line.endswith("PeftModel.from_pretrained")} == {
        "hiplora/sources/transformers_models.py: AutoConfig.from_pretrained",
        "hiplora/sources/transformers_models.py: AutoModelForCausalLM.from_pretrained",
        "hiplora/sources/transformers_models.py: AutoTokenizer.from_pretrained",
    }


def test_models_and_tokenizers_are_of_transformers_own_classes(stranger):
    folder = stranger()
    assert type(load_causal_lm(folder)).__module__.startswith("transformers.models.llama.")
    assert type(load_tokenizer(folder)).__module__.startswith("transformers.")
