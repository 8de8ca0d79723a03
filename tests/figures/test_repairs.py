"""Ways to mend an update: one mark for each setting, the best of each way filled."""

import pandas as pd

from hiplora import figures

from .reading import numbers, traces

TABLE = pd.DataFrame(
    [
        ["a", "as trained", "as trained", 1.0, 0.90, 1.0, True, 0.0, 0.0, -0.06, -0.08, -0.04],
        ["a", "blocks", "PP x 0", 0.97, 0.97, 1.0, True, 0.7, 0.0, 0.01, 0.005, 0.02],
        ["a", "blocks", "PP x 0.5", 0.98, 0.95, 1.0, False, 0.5, 0.0, -0.01, -0.02, 0.01],
        ["a", "scaled", "x 0.8", 0.8, 0.96, 1.0, True, 0.6, 0.0, 0.0, 0.0, 0.0],
    ],
    columns=["adapter", "way", "edit", "norm", "retention", "task_score", "chosen", "healed", "damaged", "gain",
             "gain_low", "gain_high"],
).assign(validation_retention=0.9, validation_task_score=1.0)  # fmt: skip


def _title(table: pd.DataFrame) -> str:
    return figures.repair_outcomes(table).layout.title.text.replace("\N{NO-BREAK SPACE}", " ")


def test_each_setting_has_a_mark_and_the_best_of_its_way_is_filled() -> None:
    found = traces(figures.repair_outcomes(TABLE))
    assert list(found) == ["as trained", "blocks", "scaled"]
    assert list(numbers(found["blocks"].x)) == [0.97, 0.95]
    assert list(found["blocks"].marker.symbol) == ["circle", "circle-open"]
    assert found["blocks"].marker.color == figures.adapter_colors(TABLE["adapter"])["a"]
    assert found["scaled"].marker.color != found["blocks"].marker.color


def test_the_title_sets_the_best_edit_beside_the_best_scaling() -> None:
    assert _title(TABLE) == (
        "With PP x 0, a keeps 97 % of the base instead of 90 %, and scores 100 % on its task; scaled (x 0.8) it keeps "
        "96 %."
    )


def test_the_title_says_what_the_examples_cannot_tell_apart() -> None:
    assert _title(TABLE.assign(gain_low=-0.01)).endswith("it keeps 96 %, which these examples cannot tell apart.")


def test_the_title_says_where_no_edit_keeps_the_task() -> None:
    assert _title(TABLE.assign(chosen=False)) == "No edit by block keeps the task of a."


def test_losses_are_in_nats_and_lower_is_better() -> None:
    table = TABLE.rename(columns=lambda name: name.replace("retention", "kept_loss").replace("task_score", "task_loss"))
    table = table.assign(kept_loss=[2.9, 2.7, 2.8, 2.75], task_loss=1.0, task_text="a, 9 tokens", kept_text="b")
    figure = figures.repair_outcomes(table)
    assert figure.layout.xaxis.title.text == "Loss on what is kept (nats per token)"
    assert _title(table) == (
        "With PP x 0, a reads the kept text at 2.700 nats a token instead of 2.900 nats, and its task's at 1.000 nats; "
        "scaled (x 0.8) at 2.750 nats."
    )
