"""What a comparison found, as a table and a line of remarks."""

from typing import Any

from engine.apps.cli.command import Call
from engine.errors import counted

NETWORK = {"distill": "student", "prune": "pruned network", "quantise": "quantised network"}
"""What came out of each comparison, in words."""


def tell(report: dict[str, Any], title: str, call: Call) -> None:
    """Print the rows of a comparison and what they are held against."""
    by = "agreement" if report["rows"]["folder"]["accuracy"] is None else "accuracy"
    columns = [
        *("row", "images", "accuracy", "agreement", "KL to the teacher"),
        f"{by} minus the folder's",
    ]
    lines = [
        [
            *(name, str(row["images"]), _share(row["accuracy"]), _share(row["agreement"])),
            *(_nats(row.get("kl")), _difference(row.get("difference_to_folder"), by)),
        ]
        for name, row in report["rows"].items()
    ]
    measured = f"{report['measured_on']} ({counted(report['measured_images'], 'image')})"
    call.screen.table(f"{title}, measured on {measured}", columns, lines, result=True)
    call.screen.say("; ".join(_remarks(report)), result=True)


def _share(found: dict[str, Any] | None) -> str:
    """Mean and spread in percent."""
    if found is None:
        return "not measured"
    spread = "" if found["spread"] is None else f" ± {100 * found['spread']:.1f}"
    return f"{100 * found['mean']:.1f}{spread} %"


def _nats(found: dict[str, Any] | None) -> str:
    """Mean and spread of a divergence; empty where it was not measured."""
    if found is None:
        return ""
    return f"{found['mean']:.3f}" + ("" if found["spread"] is None else f" ± {found['spread']:.3f}")


def _difference(found: dict[str, Any] | None, score: str) -> str:
    """A difference in points with its interval of 95 %; empty where there is none."""
    if found is None:
        return ""
    mean, low, high = (100 * found[score][end] for end in ("mean", "low", "high"))
    return f"{mean:+.1f} ({low:+.1f} to {high:+.1f})"


def _remarks(report: dict[str, Any]) -> list[str]:
    """What the rows are held against, in words."""
    teacher, network = report["teacher"], report["network"]
    remarks = []
    if teacher["accuracy"] is not None:
        remarks.append(f"the classifier itself: {100 * teacher['accuracy']:.1f} %")
    if report["task"] == "prune":
        before = "agreement" if network["accuracy"] is None else "accuracy"
        remarks.append(f"pruned and not taught: {100 * network[before]:.1f} % {before}")
    if "flops" in network:
        named = f", {report['student']}," if "student" in report else ""
        remarks.append(
            f"the {NETWORK[report['task']]}{named} has {network['parameters'] / teacher['parameters']:.0%} of the "
            f"classifier's parameters and {network['flops'] / teacher['flops']:.0%} of its FLOPs"
        )
    elif network["accuracy"] is not None:
        remarks.append(f"in float32: {100 * network['accuracy']:.1f} %")
    if "file_bytes" in network:
        int8 = max(row["file_bytes"]["mean"] for row in report["rows"].values())
        remarks.append(f"int8 {int8 / 1e6:.2f} MB, float32 {network['file_bytes'] / 1e6:.2f} MB")
    return remarks
