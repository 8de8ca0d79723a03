"""What all figures have in common: a finding, a measure, named axes."""

import json

import pandas as pd
import plotly.graph_objects as go

from hiplora import figures, learn
from hiplora.figures.style import for_presentation
from hiplora.measures import MEASURES, channel_table, cut_table, summary_table

from .conftest import K, two_runs
from .test_ablation import TABLE as EFFECTS
from .test_channels import PROBED
from .test_differences import DIFFERENCE
from .test_drift import TABLE as DRIFT
from .test_merges import CONFLICTS, FAILS, balance_of_two, predictions
from .test_merges import OUTCOMES as MERGES
from .test_modules import priced, reallocated
from .test_octaves import OCTAVES
from .test_playback import STEPS
from .test_repairs import TABLE as REPAIRS
from .test_score_frontier import FRONTIER
from .test_skills import SKILLS
from .test_tokens import TOKENS


def every_figure(layers: pd.DataFrame, directions: pd.DataFrame, sweeps: pd.DataFrame) -> dict[str, go.Figure]:
    summary = summary_table(layers)
    return {
        "block_effects": figures.block_effects(EFFECTS),
        "energy_damage": figures.energy_damage(EFFECTS),
        "repair_outcomes": figures.repair_outcomes(REPAIRS),
        "principal_share": figures.principal_share(summary, K),
        "layer_map": figures.layer_map(layers, MEASURES["enrichment"]),
        "singular_values": figures.singular_values(directions, K),
        "direction_energy": figures.direction_energy(directions, K),
        "cumulative_energy": figures.cumulative_energy(directions, K),
        "gains": figures.gains(directions, K),
        "sweep": figures.sweep(sweeps, K),
        "channel_norms": figures.channel_norms(channel_table(layers)),
        "channel_blocks": figures.channel_blocks(summary),
        "tightness_by_layer": figures.tightness_by_layer(layers),
        "ledger": figures.ledger(layers.assign(together=0.5, independent=0.4, left=0.5, position=1)),
        "cut_by_layer": figures.cut_by_layer(cut_table(layers)),
        "prices_by_module": figures.prices_by_module(priced()),
        "reallocated_budgets": figures.reallocated_budgets(reallocated()),
        "tightness_history": figures.tightness_history(two_runs(), 16),
        "norm_history": figures.norm_history(two_runs(), 16),
        "principal_drift": figures.principal_drift(DRIFT, 8, MEASURES["pp"]),
        "skill_scores": figures.skill_scores(SKILLS),
        "frontier": figures.frontier(FRONTIER, ["a", "b"]),
        "octave_energy": figures.octave_energy(OCTAVES),
        "difference_shares": figures.difference_shares(DIFFERENCE),
        "training_spectrum": figures.training_spectrum(STEPS, K),
        "rotation_energy": figures.rotation_energy(learn.rotation_directions(30), learn.PRINCIPAL_RANK),
        "rotation_effect": figures.rotation_effect(learn.rotation_effects(angles=(30,)), 30),
        "core_budget": figures.core_budget(learn.budget_cores(0.1, 0.1), learn.budget_sections()),
        "merge_error": figures.merge_error(learn.merge_effects((30,)), 30),
        "merge_typical": figures.merge_typical(learn.merge_effects((30,)), 30),
        "merge_conflicts": figures.merge_conflicts(CONFLICTS, "a", "b"),
        "merge_outcomes": figures.merge_outcomes(MERGES),
        "merge_predictions": figures.merge_predictions(predictions()),
        "merge_balance": figures.merge_balance(balance_of_two()),
        "merge_fail": figures.merge_fail(FAILS),
        "two_views": figures.two_views(learn.two_views(30, 0.0), learn.PRINCIPAL_RANK),
        "input_damage": figures.input_damage(learn.input_damages(30, uses=(0.0, 1.0)), 0.0),
        "probe_effects": figures.probe_effects(PROBED),
        "next_tokens": figures.next_tokens(TOKENS),
    }


def test_every_public_figure_has_a_finding_a_measure_and_named_axes(
    layers: pd.DataFrame, directions: pd.DataFrame, sweeps: pd.DataFrame
) -> None:
    drawn = every_figure(layers, directions, sweeps)
    assert set(drawn) == set(figures.__all__) - {"adapter_colors"}
    for name, figure in drawn.items():
        assert len(figure.layout.title.text) > 20, name
        assert len(figure.layout.title.subtitle.text) > 20, name
        assert any(axis.title.text for axis in figure.select_xaxes()), name
        json.loads(figure.to_json())


def test_every_public_figure_can_be_presented(
    layers: pd.DataFrame, directions: pd.DataFrame, sweeps: pd.DataFrame
) -> None:
    for name, figure in every_figure(layers, directions, sweeps).items():
        shown = for_presentation(figure)
        axes = [*shown.select_xaxes(), *shown.select_yaxes()]
        assert {axis.tickfont.size for axis in axes} == {18}, name
        assert {note.font.size for note in shown.layout.annotations} <= {18}, name
