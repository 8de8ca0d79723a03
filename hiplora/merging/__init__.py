"""Merging: several updates of one base as one update, in published ways and our own."""

from hiplora.merging.conflicts import conflict_summary, conflict_table
from hiplora.merging.merge import MergedUpdate, merge
from hiplora.merging.model import save_model
from hiplora.merging.outcomes import (
    ALL,
    BASE_ALLOWANCE,
    MERGE,
    SINGLE,
    TASK_THRESHOLD,
    balance_table,
    doubts,
    fail_table,
    outcome_rows,
    outcome_table,
    set_table,
)
from hiplora.merging.predicted import PREDICTORS, prediction_table
from hiplora.merging.registry import WAYS
from hiplora.merging.save import REPORT_FILE, require_new, save_merge, total_error
from hiplora.merging.verify import Verification, verify
from hiplora.merging.way import Site, Way

__all__ = [
    "ALL",
    "BASE_ALLOWANCE",
    "MERGE",
    "PREDICTORS",
    "REPORT_FILE",
    "SINGLE",
    "TASK_THRESHOLD",
    "WAYS",
    "MergedUpdate",
    "Site",
    "Verification",
    "Way",
    "balance_table",
    "conflict_summary",
    "conflict_table",
    "doubts",
    "fail_table",
    "merge",
    "outcome_rows",
    "outcome_table",
    "prediction_table",
    "require_new",
    "save_merge",
    "save_model",
    "set_table",
    "total_error",
    "verify",
]
