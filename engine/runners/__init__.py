"""Whole runs: from a request to samples, files and reports."""
