"""Data set folders, contact sheets, curves and exports: what a run leaves on the disk.

Nothing is re-exported, so that what needs no torch, such as `ddis finish`, loads none.
"""
