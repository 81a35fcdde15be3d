"""The faults that the study `faults` counts, a module for each way of being at fault."""
