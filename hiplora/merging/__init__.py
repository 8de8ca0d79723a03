"""Merging: several updates of one base as one update, in published ways and our own."""

from hiplora.merging.conflicts import conflict_summary, conflict_table
from hiplora.merging.merge import MergedUpdate, merge
from hiplora.merging.model import save_model
from hiplora.merging.registry import WAYS
from hiplora.merging.save import REPORT_FILE, require_new, save_merge, total_error
from hiplora.merging.verify import Verification, verify
from hiplora.merging.way import Site, Way

__all__ = [
    "REPORT_FILE",
    "WAYS",
    "MergedUpdate",
    "Site",
    "Verification",
    "Way",
    "conflict_summary",
    "conflict_table",
    "merge",
    "require_new",
    "save_merge",
    "save_model",
    "total_error",
    "verify",
]
