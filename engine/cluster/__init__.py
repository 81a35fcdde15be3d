"""Runs on many workers: parts given out, lost and given again, until none is missing."""
