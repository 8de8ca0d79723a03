"""The Python code of a figure, written from the call that drew it."""

import inspect
import sys
from collections.abc import Callable
from dataclasses import fields
from functools import partial
from pathlib import Path
from typing import Any

from hiplora.effects import KeptScores
from hiplora.measure_info import MeasureInfo
from hiplora.measures import MEASURES
from hiplora.paths import portable
from hiplora.study.opening import open_study
from hiplora.training import Run


def code(figure: Callable[..., Any], table: "partial[Any]", *args: Any) -> str:
    """Return a program for showing `figure(table(), *args)`, with names and relative paths where there are any.

    Args:
        figure: a public function of this package.
        table: a call of a public function, or of a method of an object that knows how it is made (`made_by`).
        args: plain values, measures, runs, or calls like `table`.
    """
    writer = _Writer()
    arguments = [writer.variable("table", table), *(writer.expression(arg) for arg in args)]
    shown = f"{writer.name_of(figure)}({', '.join(arguments)}).show()"
    return "\n".join([*writer.import_lines(), "", *writer.lines, shown])


class _Writer:
    """Imports and lines of a program, as its expressions need them."""

    def __init__(self) -> None:
        self._modules: set[str] = set()
        self.lines: list[str] = []

    def import_lines(self) -> list[str]:
        """Return the imports, whole packages first."""
        lines = [f"import {module}" for module in self._modules if "." not in module]
        names: dict[str, list[str]] = {}
        for module in sorted(self._modules):
            if "." in module:
                package, _, name = module.rpartition(".")
                names.setdefault(package, []).append(name)
        return [*lines, *(f"from {package} import {', '.join(found)}" for package, found in names.items())]

    def variable(self, name: str, call: "partial[Any]") -> str:
        """Write `name = call`, and return the name."""
        line = f"{name} = {self.expression(call)}"
        if line not in self.lines:
            self.lines.append(line)
        return name

    def expression(self, value: Any) -> str:
        """Return the expression of a value."""
        if isinstance(value, partial):
            named = [f"{name}={self.expression(arg)}" for name, arg in value.keywords.items()]
            return f"{self.name_of(value.func)}({', '.join([*map(self.expression, value.args), *named])})"
        if isinstance(value, MeasureInfo):
            registry = "MEASURES" if value in MEASURES.values() else "DIFFERENCES"
            return f"{self.imported('hiplora.measures')}.{registry}[{value.column!r}]"
        if isinstance(value, dict):
            return "{" + ", ".join(f"{key!r}: {self.expression(each)}" for key, each in value.items()) + "}"
        if isinstance(value, list | tuple):
            return f"[{', '.join(map(self.expression, value))}]"
        if isinstance(value, KeptScores):
            given = {each.name: getattr(value, each.name) for each in fields(value)}
            changed = {each.name: given[each.name] for each in fields(value) if given[each.name] != each.default}
            return self.expression(partial(type(value), **changed))
        if isinstance(value, Run):
            return self.expression(partial(Run, value.path))
        if isinstance(value, Path) or (isinstance(value, str) and Path(value).is_absolute()):
            return repr(portable(value))
        return repr(value)

    def name_of(self, function: Callable[..., Any]) -> str:
        """Return the name of a function or method in the program."""
        owner = getattr(function, "__self__", None)
        if owner is not None and not inspect.isclass(owner) and not inspect.ismodule(owner):
            return f"{self.variable(type(owner).__name__.lower(), owner.made_by)}.{function.__name__}"
        if function is open_study:
            return f"{self.imported('hiplora')}.open"
        return f"{self.imported(_public_module(function))}.{function.__name__}"

    def imported(self, module: str) -> str:
        """Import a module, and return its name in the program."""
        self._modules.add(module)
        return module.rpartition(".")[2]


def _public_module(function: Callable[..., Any]) -> str:
    """Return the shortest module of this package that exports a function."""
    parts = function.__module__.split(".")
    paths = [".".join(parts[:length]) for length in range(2, len(parts) + 1)]
    return next(path for path in paths if getattr(sys.modules[path], function.__name__, None) is function)
