"""Merging: several updates of one base as one update, in published ways and our own."""

from hiplora.merging.merge import MergedUpdate, merge
from hiplora.merging.registry import WAYS
from hiplora.merging.way import Site, Way

__all__ = ["WAYS", "MergedUpdate", "Site", "Way", "merge"]
