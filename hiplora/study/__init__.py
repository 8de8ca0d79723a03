"""A study: updates on a base at one k; every table, caveat and figure is one call on it."""

from hiplora.study.edits import REPAIR_BUDGETS
from hiplora.study.opening import analyze, open_study
from hiplora.study.study import Study

__all__ = ["REPAIR_BUDGETS", "Study", "analyze", "open_study"]
