"""A page about data sets, comparisons and measurements: one HTML file that needs nothing else."""

from engine.report.page import REPORT, write_own_report, write_report

__all__ = ["REPORT", "write_own_report", "write_report"]
