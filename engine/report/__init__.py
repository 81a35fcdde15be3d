"""A page about data sets and comparisons, for a person to look at: one HTML file that needs nothing else."""

from engine.report.page import REPORT, write_own_report, write_report

__all__ = ["REPORT", "write_own_report", "write_report"]
