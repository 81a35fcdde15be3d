"""Markdown tables of the kernels and of whole networks."""

from reports.markdown import table


def _inductor(us: dict[str, float]) -> float | None:
    return min((value for name, value in us.items() if name.startswith("inductor")), default=None)


def _ratio(numerator: float | None, denominator: float) -> str:
    return "" if numerator is None else f"{numerator / denominator:.2f}"


def _row(row: dict) -> list[str]:
    us, ours = row["us"], row["us"]["ours"]
    others = [_ratio(us.get(name), ours) for name in ("hook", "var_mean", "update_stats", "plain")]
    others.append(_ratio(_inductor(us), ours))
    shape = ", ".join(map(str, row["shape"]))
    limit = _ratio(ours, us["limit"])
    return [f"({shape})", row["dtype"], row["layout"], f"{ours:.1f}", *others, limit]


def kernels_page(result: dict) -> str:
    """The study `sweep`: how many times as long each other form takes, and how far the limit is."""
    where = ", ".join(
        f"{key.replace('_', ' ')} {value}" for key, value in result["environment"].items() if value
    )
    parts = [
        "# Kernels\n",
        f"{where}. Best of many calls in turns.\n",
        "`hook` to `inductor`: their time over ours, above 1 is ours faster. `ours / limit`: our time over a plain "
        "read (moments) or copy and add (layer) of the same bytes.\n",
    ]
    header = ["shape", "dtype", "layout", "ours us", "hook", "var_mean", "update_stats", "plain"]
    header += ["inductor", "ours / limit"]
    for op in dict.fromkeys(row["op"] for row in result["rows"]):
        rows = [row for row in result["rows"] if row["op"] == op]
        what = (
            "forward"
            if op == "channel_moments"
            else "forward + backward; `plain` is the layer without moments"
        )
        parts += [
            f"## {op}: {what}\n",
            table(header, [_row(row) for row in rows]),
            "",
        ]
    parts += [
        "## Whole networks: L_BN + gradient by the image; `plain` is without L_BN\n",
        networks_table(result),
        "",
        "## The Triton kernels, compiled ahead of time\n",
        code_table(result.get("code")),
        "",
    ]
    return "\n".join(parts)


def code_table(codes: list[dict] | None) -> str:
    """The study `gpu_code`: registers of each kernel with each tile (rows x columns / warps), by architecture."""
    if not codes:
        return "Not measured: Triton is not installed."
    architectures = list(dict.fromkeys(code["architecture"] for code in codes))
    rows = []
    for case in dict.fromkeys(code["case"] for code in codes):
        found = [code for code in codes if code["case"] == case]
        spilled = max(code["stack"] + code["local"] for code in found)
        widest = (
            min(max(map(int, code[what]), default=0) for code in found)
            for what in ("loads", "stores")
        )
        registers = (str(code["registers"]) for code in found)
        rows.append([case, *registers, str(spilled), *map(str, widest)])
    names = (f"registers, sm_{architecture}" for architecture in architectures)
    header = ["kernel", *names, "spilled bytes", "widest load, bits", "widest store, bits"]
    return table(header, rows)


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
        rows.append(cells)
    header = ["network", "dtype", "layout", "plain ms", "fused / plain", "hook / plain"]
    return table([*header, "plain MB", "fused MB", "hook MB"], rows)


def kernels_table(result: dict) -> str:
    """The whole networks, and where they ran."""
    where = result["environment"]
    return (
        f"L_BN with its gradient by the image, over a plain forward pass with the gradient by the image: medians on "
        f"{where['device']}, {where['threads']} threads. Each kernel alone: `bench/results/kernels.md`.\n\n"
        f"{networks_table(result)}"
    )
