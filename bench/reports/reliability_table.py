"""The table of runs that were killed at random moments."""

from reports.markdown import table

HEADER = [
    "what is killed",
    "kills",
    "runs to the end",
    "with the bytes of an uninterrupted run",
    "files found half-written",
    "temporary files left",
]


def reliability_table(result: dict) -> str:
    """The study `reliability`."""
    rows = [
        [
            f"`{name}`" if name != "share" else "`generate --share`",
            f"{row['kills']}",
            f"{row['runs']}",
            f"{row['equal']}",
            f"{len(row['half_written'])}",
            f"{row['leftovers']}",
        ]
        for name, row in result["rows"].items()
    ]
    return table(HEADER, rows)
