"""Every word that stands over a number is defined once."""

import pytest

from hiplora.measures import DIFFERENCES, MEASURES, glossary, meaning_of, words_in


def test_the_glossary_defines_every_measure_in_the_words_of_the_registry():
    defined = {each.name: each.meaning for each in glossary()}
    for info in MEASURES.values():
        assert defined[info.name] == info.meaning
    assert {info.name for info in DIFFERENCES.values()} <= set(defined)
    assert list(defined) == sorted(defined, key=str.lower)


def test_a_column_of_a_measure_means_what_the_measure_does():
    assert meaning_of("tightness") == MEASURES["tightness"].meaning
    with pytest.raises(KeyError):
        meaning_of("no such column")


def test_the_words_of_a_text_are_found_in_its_order():
    text = "Enrichment of the principal block against the 95 % band; would gain most from more budget."
    assert [each.name for each in words_in(text)] == [
        "Enrichment",
        "Principal block",
        "Band of chance",
        "Stability budget",
    ]
    assert words_in("Energetic budgetary octavo") == []
