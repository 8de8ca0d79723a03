"""Events as they are written and read."""

import json

import pytest

from hiplora.training.events import Drift, Layers, Scores, from_json, in_words, to_json
from tests.training.conftest import step

LAYERS = {name: [0.5, None] for name in ("epsilon", "tightness", "principal_norm", "mixed_norm", "residual_norm")}
EVENTS = [
    step(3, grad_norm=2.5),
    Layers(step=4, total_relative_norm=0.1, relative_norm=[0.1, 0.2], **LAYERS),
    Layers(step=4, total_relative_norm=0.1, relative_norm=[0.1, 0.2], **LAYERS, shadow_price=[0.0, 1.5]),
    Scores(5, 0.9, 0.8, {"copy": 1.0}, {"locality": 0.7}),
    Scores(5, 0.9, None, {}, {"validation_loss": None}),
    Drift(5, "inputs", "notes.txt, 512 tokens", 0.1, 0.2, 0.1, 0.05, 0.15, 2.0),
]


@pytest.mark.parametrize("event", EVENTS)
def test_event_is_read_as_it_was_written(event):
    assert from_json(json.loads(json.dumps(to_json(event)))) == event


def test_further_scores_lie_flat_in_the_line_and_prices_only_where_there_are_any():
    assert to_json(EVENTS[3])["locality"] == 0.7
    assert "shadow_price" not in to_json(EVENTS[1])


@pytest.mark.parametrize("event", EVENTS)
def test_event_that_lacks_a_part_or_has_a_wrong_one_is_refused(event):
    whole = to_json(event)
    for name in vars(event).keys() & whole.keys() - {"shadow_price"}:
        with pytest.raises(ValueError, match="not an event"):
            from_json({key: value for key, value in whole.items() if key != name})
        with pytest.raises(ValueError, match="not an event"):
            from_json(whole | {name: True})


def test_drift_in_a_geometry_that_is_not_known_is_refused():
    with pytest.raises(ValueError, match="not an event: geometry"):
        from_json(to_json(EVENTS[-1]) | {"geometry": "outputs"})


@pytest.mark.parametrize("value", [None, [], 3, {}, {"event": "dance", "step": 1}, {"event": [], "step": 1}])
def test_anything_else_is_refused(value):
    with pytest.raises(ValueError, match="not an event"):
        from_json(value)


def test_scores_are_said_as_shares_for_a_task_and_as_losses_for_a_file():
    assert in_words(EVENTS[3]) == "task score 90.0%, 80.0% of the base kept"
    assert in_words(EVENTS[4]) == "validation loss infinite"
    assert in_words(Scores(1, 0.1, 1.0, {}, {"validation_loss": 2.0, "probe_loss": 3.5})) == (
        "validation loss 2, probe loss 3.5"
    )
