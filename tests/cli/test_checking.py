"""`hiplora check`: adapters against limits, as exit code, table and files."""

import hashlib
import json
import re
import shutil
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import hiplora
from hiplora.files import hashes_of
from hiplora.measures import MEASURES, read_limit
from tests.cli.reading import tables

BOTH = ("demo", "swap-lora", "swap-hiplora")


@pytest.fixture(scope="module")
def study():
    return hiplora.open("demo", ["swap-lora", "swap-hiplora"])


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["demo", "swap-hiplora", "--max-tightness", 1], 0),
        (["demo", "swap-lora", "--max-tightness", 1], 1),
        (["demo", "swap-hiplora", "--min", "retention=0.9"], 0),
        (["demo", "swap-hiplora", "--min", "retention=0.95"], 1),
        (["demo", "swap-hiplora", "absent", "--max-tightness", 1], 2),
        (["absent", "swap-hiplora", "--max-tightness", 1], 2),
    ],
)
def test_the_exit_code_tells_within_from_over_from_bad_input(run, arguments, expected):
    assert run("check", *arguments)[0] == expected


def test_each_module_over_a_limit_is_named_with_its_value(run, study):
    layers = study.layers()
    over = layers[layers["tightness"] > 0.8]
    code, out, err = run("check", *BOTH, "--max-tightness", 0.8)
    assert code == 1
    said = [line for line in err if "above the limit" in line]
    assert len(said) == len(over) > 2
    for line, (_, row) in zip(said, over.iterrows(), strict=True):
        assert line.startswith(f"hiplora: {row['adapter']}: tightness of {row['module']} is ")
        assert float(re.search(r"is ([\d.]+),", line)[1]) == pytest.approx(row["tightness"], abs=0.005)
    verdicts = tables(out)[0].set_index("Adapter")
    for name, rows in layers.groupby("adapter"):
        assert verdicts.loc[name, "Module"] == rows.loc[rows["tightness"].idxmax(), "module"]
        assert verdicts.loc[name, "Not within"] == f"{(rows['tightness'] > 0.8).sum()} of 28"


def test_every_numeric_measure_of_modules_and_of_adapters_can_be_limited(study):
    whole = [*study.summary().select_dtypes("number")]
    assert {"retention", "max_tightness", "over_budget", "enrichment"} <= set(whole)
    for name in [column for info in MEASURES.values() for column in (info.column, *info.beside)]:
        assert not read_limit(f"{name}=1").whole
    for name in whole:
        limit = read_limit(f"adapter:{name}=1")
        assert (limit.column, limit.whole) == (name, True)
    assert read_limit("max_tightness=1").whole


def test_a_measure_of_both_binds_modules_or_with_a_prefix_the_adapter(run, study):
    top = study.summary()["enrichment"].max()
    assert study.layers()["enrichment"].max() > top
    bound = f"enrichment={top + 0.01}"
    assert run("check", *BOTH, "--max", bound)[0] == 1
    assert run("check", *BOTH, "--max", f"adapter:{bound}")[0] == 0


def test_what_is_not_known_is_never_within(run, llama_base, make_adapter, tmp_path):
    from peft import LoraConfig

    make_adapter(llama_base, tmp_path / "idle", LoraConfig(r=2, target_modules=["q_proj"]), zero=True)
    arguments = ("check", llama_base, tmp_path / "idle", "--k", 4)
    assert run(*arguments, "--max-tightness", 1)[0] == 0
    code, out, err = run(*arguments, "--max-enrichment", 1000)
    assert code == 1
    assert tables(out)[0]["Verdict"].tolist() == ["not known"]
    assert "is not known, so it is not within 1000." in err[0]
    # It has no card, so no score.
    assert run(*arguments, "--min", "retention=0")[0] == 1


def test_a_module_that_is_left_out_is_not_within(run, llama_base, lora_folder, changed_copy):
    def wrapped(tensors):
        return {key.replace("layers.1.mlp.up_proj", "layers.9.mlp.up_proj"): array for key, array in tensors.items()}

    copy = changed_copy(lora_folder, "elsewhere", wrapped)
    assert run("check", llama_base, lora_folder, "--k", 4, "--max-tightness", 99)[0] == 0
    code, _, err = run("check", llama_base, copy, "--k", 4, "--max-tightness", 99)
    assert code == 1
    assert any("model.layers.9.mlp.up_proj is left out of the measures (" in line for line in err)


def test_an_effect_is_measured_on_the_inputs_and_the_rest_where_it_was(run, study, tmp_path):
    inputs = study.at(geometry="inputs").layers()
    code, _, _ = run("check", *BOTH, "--max-effect", 0.1, "--max", "relative_norm=9", "--json", tmp_path / "c.json")
    assert code == 1
    rows = json.loads((tmp_path / "c.json").read_text())["results"]
    found = {
        measure: [row["value"] for row in rows if row["measure"] == measure] for measure in ("effect", "relative_norm")
    }
    np.testing.assert_allclose(found["effect"], inputs["relative_norm"], rtol=1e-12)
    np.testing.assert_allclose(found["relative_norm"], study.layers()["relative_norm"], rtol=1e-12)


def test_a_measure_that_is_computed_on_request_is_computed_for_its_limit(run):
    assert run("check", "demo", "swap-lora", "--max", "intruders=0")[0] == 0


def test_json_has_every_value_and_the_hashes_of_the_files(run, study, tmp_path):
    run("check", *BOTH, "--max-tightness", 1, "--json", tmp_path / "check.json")
    found = json.loads((tmp_path / "check.json").read_text())
    np.testing.assert_allclose([row["value"] for row in found["results"]], study.layers()["tightness"], rtol=1e-12)
    assert [each["within"] for each in found["adapters"]] == [False, True]
    weights = study["swap-lora"].folder / "adapter_model.safetensors"
    digest = hashlib.sha256(weights.read_bytes()).hexdigest()
    assert found["adapters"][0]["sha256"][weights.name] == digest
    assert set(found["adapters"][0]["sha256"]) == set(hashes_of(weights.parent))


def test_sarif_has_one_result_for_each_module_over_a_limit(run, study, tmp_path, monkeypatch):
    shutil.copytree(study["swap-lora"].folder, tmp_path / "my adapter")
    monkeypatch.chdir(tmp_path)
    run("check", "demo", "my adapter", "--max-tightness", 1, "--min", "retention=0.5", "--sarif", "check.sarif")
    log = json.loads(Path("check.sarif").read_text())
    assert log["version"] == "2.1.0"
    [found] = log["runs"]
    driver = found["tool"]["driver"]
    assert driver["name"] == "hiplora"
    assert [rule["id"] for rule in driver["rules"]] == ["retention", "tightness"]
    layers = study.layers()
    over = layers[(layers["adapter"] == "swap-lora") & (layers["tightness"] > 1)]["module"].tolist()
    assert [each["locations"][0]["logicalLocations"][0]["name"] for each in found["results"]] == over
    for result in found["results"]:
        assert driver["rules"][result["ruleIndex"]]["id"] == result["ruleId"] == "tightness"
        assert result["level"] == "error"
        assert result["message"]["text"]
        # What code scanning needs: a file, relative to the checkout, and a line.
        place = result["locations"][0]["physicalLocation"]
        assert place == {"artifactLocation": {"uri": "my%20adapter/adapter_config.json"}, "region": {"startLine": 1}}
    assert len({str(result["partialFingerprints"]) for result in found["results"]}) == len(over)


def test_junit_has_a_test_for_each_module_and_a_failure_for_each_one_over(run, lora_folder, llama_base, tmp_path):
    strange = tmp_path / "a\x1b<b>&'"
    shutil.copytree(lora_folder, strange)
    layers = hiplora.open(llama_base, [lora_folder], k=4).layers()
    bound = layers["tightness"].median()
    run("check", llama_base, strange, "--k", 4, "--max-tightness", bound, "--junit", tmp_path / "check.xml")
    suite = ElementTree.parse(tmp_path / "check.xml").getroot()[0]
    assert suite.get("name") == r"a\x1b<b>&'"
    assert (suite.get("tests"), suite.get("failures")) == ("14", str((layers["tightness"] > bound).sum()))
    failed = [case.get("name") for case in suite if case.find("failure") is not None]
    assert failed == [f"tightness {module}" for module in layers[layers["tightness"] > bound]["module"]]


def test_what_was_not_checked_stands_in_every_file(run, llama_base, lora_folder, tmp_path):
    diverged = tmp_path / "diverged"
    shutil.copytree(lora_folder, diverged)
    tensors = load_file(diverged / "adapter_model.safetensors")
    next(iter(tensors.values()))[:] = np.nan
    save_file(tensors, diverged / "adapter_model.safetensors")
    files = {form: tmp_path / f"check.{form}" for form in ("json", "sarif", "junit")}
    options = [part for form, path in files.items() for part in (f"--{form}", path)]
    code, out, err = run("check", llama_base, lora_folder, diverged, "--k", 4, "--max-tightness", 99, *options)
    assert code == 2
    assert tables(out)[0]["Adapter"].tolist() == [lora_folder.name]
    assert "NaN" in err[-1]
    found = json.loads(files["json"].read_text())
    assert not found["within"]
    assert "NaN" in found["not_checked"][0]
    invocation = json.loads(files["sarif"].read_text())["runs"][0]["invocations"][0]
    assert not invocation["executionSuccessful"]
    assert "NaN" in invocation["toolExecutionNotifications"][0]["message"]["text"]
    assert "NaN" in ElementTree.parse(files["junit"]).getroot().find(".//error").get("message")


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ([], "Nothing is limited: give at least one limit"),
        (["--max", "tightnes=1"], "'tightnes' is not a measure: did you mean tightness?"),
        (["--max", "zzz=1"], "'zzz' is not a measure: choose one of enrichment, "),
        (["--max", "tightness"], "'tightness' is not a limit: write the name of a measure and a number"),
        (["--min", "tightness=nan"], "'tightness=nan' is not a limit"),
        (["--max-tightness", 1, "--json", "."], ". is a folder: name a file in it."),
    ],
)
def test_a_limit_that_cannot_be_used_is_said_before_any_work(run, options, says):
    code, out, err = run("check", "absent", "absent", *options)
    assert (code, out) == (2, [])
    assert says in err[0]
