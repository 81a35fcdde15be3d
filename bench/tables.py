"""Markdown tables from the JSON in bench/results, and the tables of README and docs/results.md between their markers.

python bench/tables.py

Below a table of results that its script would not keep, being of another prior or other settings, a line says so.
"""

import json
import re
from dataclasses import asdict
from functools import partial
from pathlib import Path

import evidence
import guidance_study
from cost_tables import (
    cat_compute_table,
    decoders_table,
    evaluator_table,
    gpu_memory_table,
    memory_table,
    onnx_runtime_table,
    sd_scale_table,
    throughput_table,
)
from evidence_tables import (
    downstream_table,
    guidance_table,
    methods_table,
    shipped_table,
    styles_table,
    tokens_table,
    tune_table,
    worst_of,
)
from goals_table import GOALS_FROM, goals_table
from gpu.claims import claims_table
from study_tables import cifar_table, guidance_study_table, selection_table

from engine.apps.demo import shipped_tokens
from engine.embedded.judge import load_judge
from engine.priors import load_prior
from engine.runners.start_word import NO_STYLE
from engine.settings import Alignment, Sampling, TokenLearning
from engine.tokens.table import load_tokens

RESULTS = Path(__file__).parent / "results"
PAGES = [Path(__file__).parent.parent / name for name in ("README.md", "docs/results.md")]


def _inductor(us: dict[str, float]) -> float | None:
    return min((value for name, value in us.items() if name.startswith("inductor")), default=None)


def _ratio(numerator: float | None, denominator: float) -> str:
    return "" if numerator is None else f"{numerator / denominator:.2f}"


def _row(row: dict) -> str:
    us, ours = row["us"], row["us"]["ours"]
    others = [_ratio(us.get(name), ours) for name in ("hook", "var_mean", "update_stats", "plain")]
    others.append(_ratio(_inductor(us), ours))
    shape = ", ".join(map(str, row["shape"]))
    cells = [
        f"({shape})",
        row["dtype"],
        row["layout"],
        f"{ours:.1f}",
        *others,
        _ratio(ours, us["limit"]),
    ]
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
        "## The Triton kernels, compiled ahead of time\n",
        code_table(result.get("code")),
        "",
    ]
    return "\n".join(parts)


def code_table(codes: list[dict] | None) -> str:
    """bench/gpu_code.py: registers of each kernel with each tile (rows x columns / warps), by architecture."""
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
        rows.append(
            f"| {case} | {' | '.join(registers)} | {spilled} | {' | '.join(map(str, widest))} |"
        )
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


def fill(text: str, name: str, table: str) -> str:
    """`text` with what stands between the markers of one table, if only nothing, replaced."""
    pattern = rf"(<!-- table:{name} -->\n).*?(<!-- /table:{name} -->)"
    filled, times = re.subn(
        pattern, lambda found: f"{found[1]}{table}\n{found[2]}", text, flags=re.DOTALL
    )
    if times != 1:
        raise ValueError(
            f"there are {times} tables {name!r} in the text, expected the markers of one"
        )
    return filled


ABLATION = [
    "plain",
    "CAT",
    "DAG",
    "both",
    "plain, told the domain",
    "plain at CFG 7.5",
    "CAT at CFG 7.5",
    "DAG at CFG 7.5",
    "both at CFG 7.5",
]
METHODS = [
    "plain",
    "paper DAG",
    "paper DDIS",
    "both",
    "DeepInversion",
    "Plug-In Inversion",
    "NaturalInversion",
]


COSTS = {
    "throughput": throughput_table,
    "memory": memory_table,
    "decoders": decoders_table,
    "cat_compute": cat_compute_table,
    "onnx_runtime": onnx_runtime_table,
    "evaluator": evaluator_table,
    "sd_scale": sd_scale_table,
}
"""Tables of bench/<name>.py, which writes bench/results/<name>.json. Without it, the README has the command."""


def cost_table(name: str, found: dict[str, dict]) -> str:
    """One of COSTS."""
    if name not in found:
        return f"Not measured yet: `python bench/{name}.py`, on a quiet machine."
    return COSTS[name](found[name])


STUDIES = {
    "guidance_study": guidance_study_table,
    "selection": selection_table,
    "cifar": cifar_table,
}
"""As COSTS, of scripts that need no quiet machine."""


def study_table(name: str, found: dict[str, dict]) -> str:
    """One of STUDIES."""
    if not found.get(name, {}).get("rows"):
        return f"Not measured yet: `python bench/{name}.py`."
    return STUDIES[name](found[name])


OF_DEFAULT_SAMPLING = ("tune", "styles", "worst_classes")
"""Results whose rows are all made with `Sampling()`."""


def changed(then: object, now: object) -> bool:
    """Whether settings that a result was made with are other ones now.

    A setting that has come since is none: it came with a default that changed nothing.
    """
    if isinstance(then, dict) and isinstance(now, dict):
        return any(key not in now or changed(value, now[key]) for key, value in then.items())
    return then != now


def out_of_date(file: str, result: dict, prior: str, tokens: dict[str, str] | None = None) -> str:
    """A line on what a file's result holds of another prior than `prior`, a fingerprint, or of settings that are gone.

    Known are the methods and variants of evidence.py and guidance_study.py, and what others align with: `Alignment()`.
    tokens: the fingerprint of each domain's tokens that ship, where they are to be compared.
    """
    settings, rows = result.get("settings", result), result.get("rows")
    if (made := settings.get("prior", prior)) != prior:
        return f"\n\n**Out of date:** made with prior {made}; {prior} ships now."
    ours = asdict(Alignment())
    if changed(settings.get("alignment", ours), ours):
        return "\n\n**Out of date:** made with another alignment than today's default."
    if file in OF_DEFAULT_SAMPLING and changed(settings.get("sampling"), asdict(Sampling())):
        return "\n\n**Out of date:** made with another sampling than today's default."
    if file == "cifar":  # its rows have no prior and no alignment
        return ""
    known = guidance_study.VARIANTS if file == "guidance_study" else evidence.METHODS
    methods = json.loads(
        json.dumps({name: asdict(how) for name, how in known.items()})
    )  # as from a file

    def differs(name: str, row: dict) -> bool:
        kind, _, domain = name.partition("/")
        if tokens and row.get("token_file") not in (None, tokens.get(domain)):
            return True
        now = methods.get(settings.get("methods", {}).get(kind, settings.get("method", kind)), {})
        return (
            changed(row.get("alignment", ours), ours)
            or changed(row.get("plain", methods.get("plain")), methods.get("plain"))
            or changed(row.get("settings", {}), now)
        )

    old = (
        [name for name, row in rows.items() if differs(name, row)] if isinstance(rows, dict) else []
    )
    return (
        f"\n\n**Out of date:** made with other settings than today's: {', '.join(old)}."
        if old
        else ""
    )


def main() -> None:
    for file in sorted(RESULTS.glob("kernels*.json")):
        file.with_suffix(".md").write_text(kernels_table(json.loads(file.read_text())))
    found = {file.stem: json.loads(file.read_text()) for file in RESULTS.glob("*.json")}
    tables = {
        "embedded": (embedded_table, ["embedded_check"]),
        "guidance": (guidance_table, ["evidence"]),
        "tokens": (
            lambda evidence, worst: tokens_table(evidence, worst_of(worst)),
            ["evidence", "worst_classes"],
        ),
        "summary": (lambda evidence: methods_table(evidence, ABLATION[:4]), ["evidence"]),
        "ablation": (lambda evidence: methods_table(evidence, ABLATION), ["evidence"]),
        "methods": (lambda found: methods_table(found, METHODS, seconds=True), ["methods"]),
        "tune": (tune_table, ["tune"]),
        **{
            task: (partial(downstream_table, task=task), ["downstream"])
            for task in ("distill", "prune", "quantise")
            if any(name.startswith(task) for name in found.get("downstream", {}).get("rows", {}))
        },
        "styles": (styles_table, ["styles"]),
        "kernels": (readme_kernels, ["kernels"]),
    }
    prior = load_prior("embedded")
    tokens = {
        domain: load_tokens(shipped_tokens(domain), prior).fingerprint
        for domain in load_judge().domains
        if shipped_tokens(domain).exists()
    }
    notes = {
        name: out_of_date(name, result, prior.fingerprint, tokens) for name, result in found.items()
    }
    ready = {
        name: made(*(found[source] for source in sources))
        + "".join(notes[source] for source in sources)
        for name, (made, sources) in tables.items()
        if all(source in found for source in sources)
    }
    ready |= {name: cost_table(name, found) + notes.get(name, "") for name in COSTS}
    ready |= {name: study_table(name, found) + notes.get(name, "") for name in STUDIES}
    ready["gpu"] = claims_table(found.get("gpu"))
    ready["gpu_memory"] = gpu_memory_table(found.get("gpu"))
    ready["goals"] = goals_table(found) + "".join(notes.get(source, "") for source in GOALS_FROM)
    ready["shipped"] = shipped_table(prior, [*TokenLearning().styles, NO_STYLE])
    texts = {page: page.read_text() for page in PAGES}
    for name, made in ready.items():
        places = [page for page, text in texts.items() if f"<!-- table:{name} -->" in text]
        for page in places or PAGES[:1]:  # one that has no place is an error
            texts[page] = fill(texts[page], name, made)
    for page, text in texts.items():
        page.write_text(text)


if __name__ == "__main__":
    main()
