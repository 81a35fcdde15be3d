"""Markdown tables from the JSON in bench/results, and the README's tables between their markers.

python bench/tables.py
"""

import json
import re
from pathlib import Path
from statistics import mean

RESULTS = Path(__file__).parent / "results"
README = Path(__file__).parent.parent / "README.md"


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
    """The sweep of bench/sweep.py: how many times as long each other form takes, and how far the limit is."""
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
    parts += [
        "## Whole networks: L_BN + gradient by the image; `plain` is without L_BN\n",
        networks_table(result),
        "",
        "## On a GPU\n",
        gpu_table(result),
        "",
        "## The Triton kernels, compiled ahead of time\n",
        code_table(result.get("code")),
        "",
    ]
    return "\n".join(parts)


def gpu_table(result: dict) -> str:
    """What bench/gpu_suite.py adds: bandwidth at large shapes over that of a copy."""
    if "copy_gb_per_s" not in result:
        return "Not measured here: `python bench/gpu_suite.py` does, on a CUDA machine."
    lines = [f"A copy moves {result['copy_gb_per_s']:.0f} GB/s.\n", "| op | share of it |", "|---|---|"]
    return "\n".join(
        [*lines, *(f"| {name} | {share:.2f} |" for name, share in result["share_of_copy"].items())]
    )


def code_table(codes: list[dict] | None) -> str:
    """bench/gpu_code.py: registers of each kernel with each tile (rows x columns / warps), by architecture."""
    if not codes:
        return "Not measured: Triton is not installed."
    architectures = list(dict.fromkeys(code["architecture"] for code in codes))
    rows = []
    for case in dict.fromkeys(code["case"] for code in codes):
        found = [code for code in codes if code["case"] == case]
        spilled = max(code["stack"] + code["local"] for code in found)
        widest = (min(max(map(int, code[what]), default=0) for code in found) for what in ("loads", "stores"))
        registers = (str(code["registers"]) for code in found)
        rows.append(f"| {case} | {' | '.join(registers)} | {spilled} | {' | '.join(map(str, widest))} |")
    names = " | ".join(f"registers, sm_{architecture}" for architecture in architectures)
    header = f"| kernel | {names} | spilled bytes | widest load, bits | widest store, bits |"
    return "\n".join([header, "|---" * (len(architectures) + 4) + "|", *rows])


def networks_table(result: dict) -> str:
    """Whole networks of bench/networks.py: the loss and its gradient over a plain forward and gradient."""

    def peak(run: dict) -> str:
        return "not measured" if run["peak_bytes"] is None else f"{run['peak_bytes'] / 1e6:.0f}"

    rows = []
    for row in result["networks"]:
        plain, fused, hook = (row["runs"][name] for name in ("plain", "fused", "hook"))
        what = f"{row['network']} ({', '.join(map(str, row['shape']))})"
        cells = [what, row["dtype"], row["layout"], f"{plain['s'] * 1e3:.0f}"]
        cells += [f"{fused['ratio']:.2f}", f"{hook['ratio']:.2f}", *map(peak, (plain, fused, hook))]
        rows.append(f"| {' | '.join(cells)} |")
    header = "| network | dtype | layout | plain ms | fused / plain | hook / plain | plain MB | fused MB | hook MB |"
    return "\n".join([header, "|---" * 9 + "|", *rows])


def readme_kernels(result: dict) -> str:
    """The whole networks, and where they ran."""
    where = result["environment"]
    return (
        f"L_BN with its gradient by the image, over a plain forward pass with the gradient by the image: medians on "
        f"{where['device']}, {where['threads']} threads. Each kernel alone: `bench/results/kernels.md`.\n\n"
        f"{networks_table(result)}"
    )


def embedded_table(result: dict) -> str:
    """`ddis embedded check --json`: what the embedded models reach, beside what is asked of them."""
    goals = result["goals"]
    rows = [
        f"| {name.replace('_', ' ')} | {'not measured' if value is None else f'{value:.3g}'} | {goals[name]:g} |"
        for name, value in result["measures"].items()
    ]
    return "\n".join(["| embedded models | reached | goal |", "|---|---|---|", *rows])


def guidance_table(result: dict) -> str:
    """bench/guidance.py: shares by domain and method, each the mean over its seeds."""
    by_method: dict[tuple[str, str], list[dict]] = {}
    for name, cell in result["cells"].items():
        method, domain, _ = name.split("/")
        by_method.setdefault((domain, method), []).append(cell)
    methods = list(result["settings"]["methods"])
    domains = list(dict.fromkeys(domain for domain, _ in by_method))

    def shown(cells: list[dict]) -> str:
        if not cells:
            return "not measured"
        domain, kind, distance = (
            mean(c[key] for c in cells) for key in ("judge_domain", "judge_class", "l_bn")
        )
        return f"{domain:.2f} / {kind:.2f} / {distance:.0f}"

    rows = [
        [domain.replace("_", " "), *(shown(by_method.get((domain, method), [])) for method in methods)]
        for domain in domains
    ]
    rows.append(["mean", *(shown([c for d in domains for c in by_method.get((d, m), [])]) for m in methods)])
    images = next(iter(result["cells"].values()))["images"]
    seeds = [max(len(by_method.get((domain, method), [])) for domain in domains) for method in methods]
    counts = ", ".join(f"{method} {number}" for method, number in zip(methods, seeds, strict=True))
    return "\n".join(
        [
            f"Judge's share in the domain / in the class / L_BN; neutral prompts, {images} images a cell and seed; "
            f"seeds: {counts}.\n",
            f"| classifier of | {' | '.join(methods)} |",
            "|---" * (len(methods) + 1) + "|",
            *(f"| {' | '.join(row)} |" for row in rows),
        ]
    )


def tokens_table(result: dict) -> str:
    """bench/tokens.py: accuracies on the classes that the teacher recognises worst, without and with tokens."""
    methods = list(dict.fromkeys(name.split("/")[0] for name in result["cells"]))
    cells = {
        (domain, method): [
            cell for name, cell in result["cells"].items() if name.startswith(f"{method}/{domain}/")
        ]
        for domain in result["classes"]
        for method in methods
    }

    def shown(found: list[dict]) -> str:
        return f"{mean(c['teacher_class'] for c in found):.2f} / {mean(c['judge_class'] for c in found):.2f}"

    rows = [
        [domain.replace("_", " "), ", ".join(kinds), *(shown(cells[domain, method]) for method in methods)]
        for domain, kinds in result["classes"].items()
    ]
    whole = [
        shown([c for (_, m), found in cells.items() if m == method for c in found]) for method in methods
    ]
    rows.append(["mean", "", *whole])
    first = next(iter(cells.values()))
    return "\n".join(
        [
            f"Teacher's / judge's accuracy on the classes that the teacher recognises worst in plain images; "
            f"{len(first)} x {first[0]['images']} images a cell, on seeds that learning and choosing did not see.\n",
            f"| classifier of | classes | {' | '.join(methods)} |",
            "|---" * (len(methods) + 2) + "|",
            *(f"| {' | '.join(row)} |" for row in rows),
        ]
    )


def fill(text: str, name: str, table: str) -> str:
    """`text` with what stands between the markers of one table replaced."""
    if f"<!-- table:{name} -->" not in text:
        raise ValueError(f"there is no table {name!r} in the text, expected its markers")
    pattern = rf"(<!-- table:{name} -->\n).*?(\n<!-- /table:{name} -->)"
    return re.sub(pattern, lambda found: found[1] + table + found[2], text, flags=re.DOTALL)


def main() -> None:
    for file in sorted(RESULTS.glob("kernels*.json")):
        file.with_suffix(".md").write_text(kernels_table(json.loads(file.read_text())))
    text = README.read_text()
    for name, source, table in (
        ("embedded", "embedded_check.json", embedded_table),
        ("guidance", "guidance.json", guidance_table),
        ("tokens", "tokens.json", tokens_table),
        ("kernels", "kernels.json", readme_kernels),
    ):
        if (RESULTS / source).exists():
            text = fill(text, name, table(json.loads((RESULTS / source).read_text())))
    README.write_text(text)


if __name__ == "__main__":
    main()
