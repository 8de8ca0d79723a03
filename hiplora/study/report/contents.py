"""What a report shows: its figures with their tables."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any

import pandas as pd
import plotly.graph_objects as go

from hiplora import figures
from hiplora.measures import MEASURES, MeasureInfo
from hiplora.study.python_code import code

if TYPE_CHECKING:
    from hiplora.study.study import Study

_NULL = ("pp_null", "pp_null_low", "pp_null_high")
_MODULE = ("adapter", "module")


@dataclass(frozen=True)
class Shown:
    """A figure of a report.

    Attributes:
        draw: a function of `hiplora.figures`.
        call: the call that makes its table.
        args: further arguments of `draw`.
        columns: of the table, for people; all by default.
        measures: those whose meaning and source stand below it.
    """

    draw: Callable[..., go.Figure]
    call: "partial[pd.DataFrame]"
    args: Sequence[Any] = ()
    columns: Sequence[str] = ()
    measures: Sequence[MeasureInfo] = ()

    @property
    def table(self) -> pd.DataFrame:
        """Its table, with the columns that people need."""
        table = self.call()
        return table[[column for column in self.columns or table if column in table]]

    @cached_property
    def figure(self) -> go.Figure:
        """The figure."""
        return self.draw(self.call(), *self.args)

    @property
    def program(self) -> str:
        """The Python that draws it."""
        return code(self.draw, self.call, *self.args)


def shown(study: "Study") -> Iterator[Shown]:
    """Yield the figures that a study has something for.

    Args:
        study: measured, with at least one update.
    """
    k, pp, enrichment = study.k, MEASURES["pp"], MEASURES["enrichment"]
    layers = study.layers()
    # Without experts the program below the figure stays the shorter one.
    choices: dict[str, Any] = {"sum_experts": True} if layers["expert"].notna().any() else {}
    by_module = partial(study.layers, **choices)
    summary = partial(study.summary)
    yield Shown(
        figures.principal_share,
        summary,
        (k,),
        ("adapter", "pp", *_NULL, "enrichment", "relative_norm"),
        (pp, enrichment),
    )
    if study.cards()["retention"].notna().any() and len(study.skills()):
        yield Shown(figures.skill_scores, partial(study.skills))
    for column, beside in (("enrichment", ("pp", *_NULL)), ("relative_norm", ("norm",))):
        info = MEASURES[column]
        yield Shown(figures.layer_map, by_module, (info,), (*_MODULE, column, *beside), (info,))
    tightness = MEASURES["tightness"]
    yield Shown(figures.tightness_by_layer, partial(study.layers), (), (*_MODULE, "tightness", "epsilon"), (tightness,))
    yield Shown(figures.channel_blocks, summary, (), ("adapter", "pp", "pr", "rp", "rr", "pp_null"))
    if len(study.channels()):
        yield Shown(figures.channel_norms, partial(study.channels))
    if layers["enrichment"].notna().any():
        yield Shown(figures.octave_energy, partial(study.octaves))
        strongest = str(layers["module"].iloc[int(layers["enrichment"].fillna(0).argmax())])
        yield Shown(
            figures.direction_energy,
            partial(study.directions, strongest),
            (study.principal_rank(strongest),),
            ("adapter", "direction", "sigma", "left", "right", "gain"),
        )
    if len(study.names) > 1:
        yield Shown(
            figures.ledger, partial(study.ledger), (), (*_MODULE, "tightness", "together", "independent", "left")
        )
    if len(study.names) == 2:
        yield Shown(
            figures.difference_shares,
            partial(study.compare, *study.names, **choices),
            (),
            ("module", "share", "relative_norm", "cosine", "joint_tightness"),
        )
    if len(study.prices()):
        yield Shown(figures.prices_by_module, partial(study.prices), (), (*_MODULE, "shadow_price", "tightness"))
    if len(study.drift()):
        steps = max(run.config.steps for run in study.runs.values())
        yield Shown(
            figures.principal_drift,
            partial(study.drift),
            (steps, enrichment),
            ("run", "step", "geometry", "enrichment", *_NULL),
            (enrichment,),
        )
