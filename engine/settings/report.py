"""Defaults of the report on a data set."""

SHOWN = 2000
"""The largest number of images of a data set on a page."""
