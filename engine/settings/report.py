"""What the page about a data set holds unless it is asked for something else."""

SHOWN = 2000
"""Images of a data set that a page holds at most."""
