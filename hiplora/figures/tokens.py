"""The most likely next characters by model."""

import pandas as pd
import plotly.graph_objects as go

from hiplora.figures.style import BASE, adapter_colors, by_adapter, finish, percent


def next_tokens(tokens: pd.DataFrame) -> go.Figure:
    """Draw the probabilities of the most likely next characters, model by model.

    Args:
        tokens: from `hiplora.demo.sentence.Probe.next_tokens`; the base comes first.
    """
    base, *adapters = dict.fromkeys(tokens["model"])
    colors = {base: BASE} | adapter_colors(pd.Series(adapters, dtype=object))
    figure = go.Figure()
    for model, part in by_adapter(tokens, "model"):
        figure.add_bar(
            x=part["token"],
            y=part["probability"],
            name=model,
            marker_color=colors[model],
            hovertemplate=f"“%{{x}}”: %{{y:.2%}}<extra>{model}</extra>",
        )
    text = tokens["text"].iloc[0]
    figure.update_xaxes(title=f"Next character after “{text}”", type="category")
    figure.update_yaxes(title="Probability", tickformat=".0%", range=[0, 1.02])
    best = tokens.loc[tokens.groupby("model", sort=False)["probability"].idxmax()]
    words = ", ".join(f"{row['model']} “{row['token']}” ({percent(row['probability'])})" for _, row in best.iterrows())
    return finish(
        figure,
        f"Most likely after “{text}”: {words}.",
        "Probability of the next character where the answers part, or of the first one where they do not.",
        340,
    )
