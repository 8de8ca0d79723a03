"""A study as one HTML page that needs nothing else."""

from hiplora.study.report.page import page

__all__ = ["page"]
