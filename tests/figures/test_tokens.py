"""The next characters: one bar per model and character."""

import pandas as pd

from hiplora import figures
from hiplora.figures import style

from .reading import same, traces

TOKENS = pd.DataFrame(
    {
        "text": ["rev ab="] * 6,
        "model": ["base"] * 2 + ["a-lora"] * 2 + ["a-hiplora"] * 2,
        "token": ["b", "a"] * 3,
        "probability": [0.9, 0.1, 0.2, 0.7, 0.6, 0.3],
    }
)


def test_bars_are_the_probabilities_of_each_model_in_its_own_colour() -> None:
    drawn = traces(figures.next_tokens(TOKENS))
    colors = style.adapter_colors(pd.Series(["a-lora", "a-hiplora"])) | {"base": style.BASE}
    for model, part in TOKENS.groupby("model"):
        assert list(drawn[model].x) == part["token"].tolist()
        same(drawn[model].y, part["probability"])
        assert drawn[model].marker.color == colors[model]


def test_next_title_names_the_likeliest_token_of_each_model() -> None:
    title = figures.next_tokens(TOKENS).layout.title.text
    for model, token, probability in (("base", "b", 0.9), ("a-lora", "a", 0.7), ("a-hiplora", "b", 0.6)):
        assert f"{model} “{token}” ({style.percent(probability)})" in title
