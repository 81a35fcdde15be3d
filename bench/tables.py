"""Markdown tables from the JSON that the benchmarks wrote in bench/results.

python bench/tables.py
"""

import json
from pathlib import Path

RESULTS = Path(__file__).parent / "results"


def _inductor(us: dict[str, float]) -> float | None:
    return min((value for name, value in us.items() if name.startswith("inductor")), default=None)


def _ratio(numerator: float | None, denominator: float) -> str:
    return "" if numerator is None else f"{numerator / denominator:.2f}"


def _row(row: dict) -> str:
    us, ours = row["us"], row["us"]["ours"]
    others = [_ratio(us.get(name), ours) for name in ("hook", "var_mean", "update_stats", "plain")]
    others.append(_ratio(_inductor(us), ours))
    shape = ", ".join(map(str, row["shape"]))
    cells = [f"({shape})", row["dtype"], row["layout"], f"{ours:.1f}", *others, _ratio(ours, us["limit"])]
    return f"| {' | '.join(cells)} |"


def kernels_table(result: dict) -> str:
    """The sweep of bench/kernels.py: how many times as long each other form takes, and how far the limit is."""
    where = ", ".join(
        f"{key.replace('_', ' ')} {value}" for key, value in result["environment"].items() if value
    )
    parts = [
        "# Kernels\n",
        f"{where}. Best of many calls in turns.\n",
        "`hook` to `inductor`: their time over ours, above 1 is ours faster. `ours / limit`: our time over a plain "
        "read (moments) or copy and add (layer) of the same bytes.\n",
    ]
    for op in dict.fromkeys(row["op"] for row in result["rows"]):
        rows = [row for row in result["rows"] if row["op"] == op]
        what = (
            "forward"
            if op == "channel_moments"
            else "forward + backward; `plain` is the layer without moments"
        )
        parts += [
            f"## {op}: {what}\n",
            "| shape | dtype | layout | ours us | hook | var_mean | update_stats | plain | inductor | ours / limit |",
            "|---|---|---|---|---|---|---|---|---|---|",
            *map(_row, rows),
            "",
        ]
    return "\n".join(parts)


if __name__ == "__main__":
    for file in sorted(RESULTS.glob("kernels*.json")):
        file.with_suffix(".md").write_text(kernels_table(json.loads(file.read_text())))
