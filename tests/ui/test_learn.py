"""The page Learn without a browser: what is in the address is what the controls show."""

import pytest

from tests.ui.visiting import visit

pytestmark = pytest.mark.usefixtures("in_the_app")


@pytest.mark.parametrize(
    ("part", "query"),
    [
        ("Interference", {"learn-angle": 70, "learn-rare": "20%", "learn-p": 2, "learn-q": 9}),
        (
            "Budget",
            {
                "learn-c11": -0.03,
                "learn-c22": 0.1,
                "learn-c12": 0.05,
                "learn-epsilon": 0.1,
                "learn-power": 0.5,
                "learn-lambda": 20.0,
            },
        ),
        ("Merging", {"learn-merge": 45}),
        ("Why inputs matter", {"learn-use": "1.5", "learn-points": 30}),
    ],
)
def test_every_slider_of_a_part_is_in_its_address(part: str, query: dict[str, float | str]) -> None:
    app = visit("learn", part=part, **{name: str(value) for name, value in query.items()})
    sliders = {each.key: each for each in [*app.main.slider, *app.main.select_slider] if each.key}
    assert set(sliders) == set(query)
    formatted = {"20%": 0.2, "1.5": 1.5}
    for name, value in query.items():
        assert sliders[name].value == formatted.get(str(value), value)
