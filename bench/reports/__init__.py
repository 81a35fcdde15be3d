"""What turns the results in bench/results into the tables of the README and docs/results.md; `python bench/reports`."""
