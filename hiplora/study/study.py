"""A study: these updates on this base at this k. Every table, caveat and figure is one call on it."""

import time
from collections.abc import Callable, Hashable, Iterator, Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import Any

from hiplora.adapters import Placement, Update
from hiplora.errors import HiploraError
from hiplora.files import atomic_path, user_path
from hiplora.geometry import Calibration, seen
from hiplora.measures import (
    Inspection,
    Judgement,
    Limit,
    caveats_on,
    finding,
    inspecting,
    judgement,
    summary_table,
)
from hiplora.plots import Plots
from hiplora.printable import printable
from hiplora.settings import DEFAULT_TOKENS
from hiplora.spectrum.prepare import Progress
from hiplora.study.check import Check, check
from hiplora.study.outcomes import Outcomes


class Study(Outcomes):
    """Updates on a base, measured at one principal rank and under one budget.

    A study does not change: `at` and `on` give another one, which reuses the measurements. Tables are pandas
    DataFrames; their columns are described in `hiplora.measures`. In the geometry of the inputs each has one more,
    `inputs`, with the text.

    Args:
        spectra: of the base; an `InputSpectra` measures in the geometry of the inputs.
        updates: to be studied, all of one base and with different names.
        k: principal rank; a weight that has fewer directions is measured at all it has, and `caveats` says so.
        epsilon: budget for all; None for each update's own (`hiplora.measures.DEFAULT_EPSILON` where it states none).
        power: `p` of the budget's weights.
        ahead: whether to measure at `k` rounded up to a multiple of 64 at once, so that every `k` up to there is cheap.
        source: the name or path that opens the base again.
        problems: one sentence for each requested update that cannot be used.
        strangers: updates that can be read but do not fit the base, each with the reason in one sentence.

    Raises:
        HiploraError: an update does not fit the base, or `k`, `epsilon` or `power` is out of range.
    """

    def inspections(self) -> list[Inspection]:
        """Return what was read of each update, strangers included: see `hiplora.measures.inspect`."""
        for _ in self.inspect_ahead():
            pass
        return [self._inspected[self._inspection_key(update)] for update, _ in self._to_inspect]

    @property
    def inspected(self) -> bool:
        """Whether `inspections` has nothing left to read."""
        return all(self._inspection_key(update) in self._inspected for update, _ in self._to_inspect)

    def inspect_ahead(self, stop: Callable[[], bool] = lambda: False) -> Iterator[Progress]:
        """Read what `inspections` returns, yielding progress after each module; what is read is kept.

        Args:
            stop: asked after each module; True ends the work, without the update that is being read.
        """
        left = [each for each in self._to_inspect if self._inspection_key(each[0]) not in self._inspected]
        total, done, start = sum(len(update.modules) for update, _ in left), 0, time.monotonic()
        for update, placement in left:
            work = inspecting(update, self.base, placement)
            try:
                while True:
                    module, done = next(work), done + 1
                    elapsed = time.monotonic() - start
                    yield Progress(done, total, done / total, module, elapsed * (total - done) / done)
                    if stop():
                        return
            except StopIteration as finished:
                self._inspected[self._inspection_key(update)] = finished.value

    @property
    def _to_inspect(self) -> list[tuple[Update, Placement | None]]:
        fitting: list[tuple[Update, Placement | None]] = [(each.update, each) for each in self.placements]
        return [*fitting, *((update, None) for update, _ in self.strangers)]

    @property
    def _inspected(self) -> dict[Hashable, Inspection]:
        """The inspections of these and other updates of the base, kept with the measurements."""
        found: dict[Hashable, Inspection] = self._memory.get(("inspections",), dict)
        return found

    @staticmethod
    def _inspection_key(update: Update) -> Hashable:
        return update.name, update.identity

    @cached_property
    def caveats(self) -> dict[str, list[str]]:
        """`{update: caveats on its numbers, one sentence each}`.

        Raises:
            HiploraError: as `layers`.
        """
        layers = self.layers()
        found = {}
        for placement in self.placements:
            sentences = caveats_on(self.spectra, seen(placement, self.spectra), layers, self.k)
            sentences += self.calibration.notes if self.calibration else []
            try:
                earlier = placement.update.card.more.get("on_top")
                if isinstance(earlier, list) and earlier:
                    names = ", ".join(map(str, earlier))
                    sentences.append(f"It was trained on top of {names}: its scores are those of all of them together.")
            except HiploraError as error:
                sentences.append(str(error))
            found[placement.update.name] = sentences
        return found

    def judgements(self) -> dict[str, Judgement]:
        """Return `{update: what its numbers say in plain words, and what to do}`; see `hiplora.measures.judgement`.

        Raises:
            HiploraError: as `layers`.
        """
        return {str(row["adapter"]): judgement(row, self.geometry) for _, row in self.summary().iterrows()}

    def check(self, limits: Sequence[Limit], inputs: Calibration | None = None) -> Check:
        """Hold the updates against limits.

        >>> import hiplora
        >>> from hiplora.measures import read_limit
        >>> found = hiplora.open("demo", ["swap-lora"]).check([read_limit("tightness=1")])
        >>> found.over[["module", "value"]].round(2)
                                    module  value
        2  model.layers.0.self_attn.v_proj   1.19
        7  model.layers.1.self_attn.q_proj   1.16

        Args:
            limits: at least one; see `hiplora.measures.read_limit`.
            inputs: those on which limits of the geometry `inputs` hold; by default the study's own, or those of the
                text that the base brings along.

        Raises:
            HiploraError: there is no limit, or the spectra cannot be computed.
        """
        return check(self, limits, inputs)

    def findings(self, *, optional: Sequence[str] = ()) -> list[str]:
        """Return the finding of each update with its caveats below it, line by line.

        Args:
            optional: as in `layers`.

        Raises:
            HiploraError: as `layers`.
        """
        lines = []
        for _, row in summary_table(self.layers(optional=optional)).iterrows():
            lines += [finding(row, self.k, self.geometry), *(f"  {caveat}" for caveat in self.caveats[row["adapter"]])]
        return [printable(line) for line in lines]

    @property
    def refusals(self) -> list[str]:
        """One sentence for each requested update that is not studied, be it a stranger or a problem."""
        return [printable(sentence) for sentence in (*(reason for _, reason in self.strangers), *self.problems)]

    def report(self, *, optional: Sequence[str] = ()) -> str:
        """Return the findings and the refusals as one text.

        Args:
            optional: as in `layers`.

        Raises:
            HiploraError: as `layers`.
        """
        return "\n".join([*self.findings(optional=optional), *self.refusals])

    @property
    def plot(self) -> Plots:
        """Figures of the tables: `study.plot.layer_map("enrichment")`."""
        return Plots(self)

    def to_html(self, path: str | Path | None = None) -> str:
        """Return a report of everything as one HTML page that needs nothing else, and write it where a path is given.

        It has the tables, the figures with their Python, the caveats, and the hashes of all inputs. Scripts draw the
        figures; without them their tables stand there. The same study gives the same page.

        Args:
            path: file to write.

        Raises:
            HiploraError: as `layers`, the study has no update, or the file cannot be written.
        """
        from hiplora.study.report import page

        text = page(self)
        if path is not None:
            target = user_path(path)
            if target.is_dir():
                raise HiploraError(f"{target} is a folder: name a file in it.")
            with atomic_path(target) as draft:
                draft.write_text(text, encoding="utf-8")
        return text

    def __repr__(self) -> str:
        head = printable(f"Study of {', '.join(self.names) or 'no update'} on {self.base.name} at k = {self.k}")
        try:
            head += printable(f", through {self.calibration.name}") if self.calibration else ""
            if missing := len(self.missing()):
                return f"{head}: {missing} spectra are still to be computed; any table does it."
            return "\n".join([head, self.report()]).rstrip()
        except HiploraError as error:
            return f"{head}: {printable(str(error))}"

    @property
    def made_by(self) -> "partial[Study]":
        """The call that opens the same study again."""
        choices: dict[str, Any] = {} if self.epsilon is None else {"epsilon": self.epsilon}
        choices |= {} if self.power == 1 else {"power": self.power}
        if (calibration := self.calibration) is not None:
            choices |= {"geometry": "inputs"} | ({"text": calibration.text.path} if calibration.text.path else {})
            choices |= {} if calibration.tokens == DEFAULT_TOKENS else {"tokens": calibration.tokens}
        sources = [update.source for update in self.updates]
        from hiplora.study.opening import open_study

        return partial(open_study, self.source, sources, k=self.k, **choices)
