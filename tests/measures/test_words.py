"""Tables of words: what is read there is so of the numbers behind."""

import pandas as pd
import pytest

import hiplora
from hiplora.measures import summary_words, worst_words


def test_columns_that_nothing_is_known_of_are_left_out():
    summary = hiplora.open("demo", ["swap-lora"]).summary()
    assert {"Task score", "Base skills kept"} <= set(summary_words(summary))
    unknown = summary.assign(task_score=float("nan"), retention=float("nan"))
    assert not {"Task score", "Base skills kept", "Intruders"} & set(summary_words(unknown))


def test_modules_whose_tightness_is_not_known_are_not_among_the_worst():
    layers = hiplora.open("demo", ["swap-lora"]).layers()
    worst = layers["tightness"].idxmax()
    assert worst_words(layers, 1)["Module"].tolist() == [layers.loc[worst, "module"]]
    layers.loc[worst, "tightness"] = float("nan")
    assert layers.loc[worst, "module"] not in set(worst_words(layers, 99)["Module"])
    layers["norm"] = 0.0
    assert worst_words(layers, 99).empty


@pytest.mark.parametrize(("geometry", "size"), [("weights", "Norm"), ("inputs", "Effect on inputs")])
def test_a_size_has_the_name_of_its_geometry(geometry, size):
    study = hiplora.open("demo", ["swap-lora"])
    assert isinstance(summary_words(study.summary(), geometry), pd.DataFrame)
    assert size in summary_words(study.summary(), geometry)
