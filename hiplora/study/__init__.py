"""A study: updates on a base at one k; every table, caveat and figure is one call on it."""

from hiplora.study.edits import REPAIR_BUDGETS
from hiplora.study.opening import analyze, open_study
from hiplora.study.outcomes import BALANCES, merge_groups
from hiplora.study.study import Study

__all__ = ["BALANCES", "REPAIR_BUDGETS", "Study", "analyze", "merge_groups", "open_study"]
