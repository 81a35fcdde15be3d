"""What was aimed at beside what was reached, from the results of the other scripts; see bench/tables.py."""

from collections.abc import Callable
from statistics import mean

from cost_tables import table

Results = dict[str, dict]
Reached = tuple[str, bool]
DEFAULT_VARIANT = "90 % of the schedule, CFG 4"
PAPER_VARIANTS = ("paper", "paper, step of 0.05", "paper, step of 0.01")
"""Of bench/guidance_study.py."""
GOALS_FROM = ("evidence", "guidance_study", "methods", "downstream", "evaluator")
PIXEL_METHODS = ("DeepInversion", "Plug-In Inversion", "NaturalInversion")


def _metric(
    found: Results, method: str, domain: str, key: str = "fid", file: str = "evidence"
) -> float:
    """A KeyError where it was not measured."""
    return found[file]["rows"][f"{method}/{domain}"]["metrics"][key]["value"]


def _order(less: str, more: str, key: str = "fid") -> Callable[[Results, str], Reached]:
    """One method's value below another's."""

    def reached(found: Results, domain: str) -> Reached:
        left, right = (_metric(found, method, domain, key) for method in (less, more))
        digits = 1 if key == "fid" else 2
        return f"{left:.{digits}f} / {right:.{digits}f}", left < right

    return reached


def _methods(found: Results, domain: str) -> Reached:
    """The nearest of the methods without a prior, over ours."""
    ours = _metric(found, "both", domain, file="methods")
    ratio, nearest = min(
        (_metric(found, method, domain, file="methods") / ours, method) for method in PIXEL_METHODS
    )
    return f"{ratio:.2f} ({nearest})", ratio >= 1.4


def _paper_at_its_best(found: Results, domain: str) -> Reached:
    """Guidance as it is by default beside the paper's with the best of its steps, on the study's images."""
    ours, *theirs = (
        _metric(found, variant, domain, file="guidance_study")
        for variant in (DEFAULT_VARIANT, *PAPER_VARIANTS)
    )
    return f"{ours:.1f} / {min(theirs):.1f}", ours < min(theirs)


def _accuracy(found: Results, task: str, domain: str, images: str) -> float:
    return found["downstream"]["rows"][f"{task}/{domain}"]["rows"][images]["accuracy"]["mean"]


def _of_original(found: Results, domain: str) -> Reached:
    share = _accuracy(found, "distill", domain, "folder") / _accuracy(
        found, "distill", domain, "original"
    )
    return f"{share:.2f}", share >= 0.95


def _above_plain(task: str, points: float) -> Callable[[Results, str], Reached]:
    def reached(found: Results, domain: str) -> Reached:
        gain = 100 * (
            _accuracy(found, task, domain, "folder") - _accuracy(found, task, domain, "plain")
        )
        return f"{gain:+.1f}", gain >= points if points else gain > 0

    return reached


def _int8(found: Results, domain: str) -> Reached:
    gap = 100 * (
        _accuracy(found, "quantise", domain, "folder")
        - _accuracy(found, "quantise", domain, "original")
    )
    return f"{gap:+.1f}", abs(gap) <= 1


IN_EACH_DOMAIN: dict[str, Callable[[Results, str], Reached]] = {
    "FID: both below DAG": _order("both", "DAG"),
    "FID: both below CAT": _order("both", "CAT"),
    "FID: DAG below plain": _order("DAG", "plain"),
    "FID: CAT below plain": _order("CAT", "plain"),
    "precision: plain below both": _order("plain", "both", "precision"),
    "recall: plain below both": _order("plain", "both", "recall"),
    "FID: both below the paper's guidance": _order("both", "paper DAG"),
    "FID, of 56 images: DAG below the paper's guidance with the best of three steps": _paper_at_its_best,
    "FID of each method without a prior at least 1.4 times ours (least)": _methods,
    "student on ours at least .95 of the one on original images": _of_original,
    "student on ours at least 9 points above the one on the plain prior's": _above_plain(
        "distill", 9
    ),
    "pruned by 70 %, taught on ours above taught on the plain prior's, points": _above_plain(
        "prune", 0
    ),
    "int8 calibrated on ours within 1 point of original images": _int8,
}


def _ratio_to_plain(found: Results, domains: list[str]) -> Reached:
    ours, plain = (mean(_metric(found, m, d) for d in domains) for m in ("both", "plain"))
    return f"{ours / plain:.2f}", ours <= 0.5 * plain


def _compute(found: Results, domains: list[str]) -> Reached:
    ours, paper = (
        mean(found["evidence"]["rows"][f"{m}/{d}"]["flops_per_image"] for d in domains)
        for m in ("both", "paper DAG")
    )
    return f"{ours / paper:.2f}", ours <= paper


def _equal(found: Results, _: list[str]) -> Reached:
    gap = max(value["relative_gap"] for value in found["evaluator"]["equal"]["values"].values())
    return f"{gap:.0e}", gap <= 1e-3


def _memory(found: Results, _: list[str]) -> Reached:
    parts = [found["evaluator"][name] for name in ("stream", "narrow_neighbours")]
    gib, rows = max(p["peak_bytes"] for p in parts) / 2**30, min(p["values"]["rows"] for p in parts)
    widths = " and ".join(f"{part['width']:,}" for part in parts)
    return f"{gib:.2f} GiB for {rows:,} of {widths} features", rows >= 100_000 and gib < 2


ONCE: dict[str, Callable[[Results, list[str]], Reached]] = {
    "mean FID of both at most half of plain's": _ratio_to_plain,
    "compute of an image at most the paper's guidance's": _compute,
    "evaluator's values within 1e-3 of kept libraries'": _equal,
    "100,000 rows in less than 2 GiB, for FID and for neighbours": _memory,
}


def goals_table(found: Results) -> str:
    """A row for each goal: what each domain reached, bold where that is short of it."""
    domains = list(dict.fromkeys(name.split("/")[1] for name in found["evidence"]["rows"]))

    def cell(reached: Callable[[], Reached]) -> tuple[str, bool | None]:
        try:
            shown, good = reached()
        except KeyError:
            return "not measured", None
        return shown if good else f"**{shown}**", good

    rows = []
    for goal, of_domain in IN_EACH_DOMAIN.items():
        cells = [cell(lambda d=domain, of=of_domain: of(found, d)) for domain in domains]
        good = [here for _, here in cells if here is not None]
        rows.append(
            [goal, *(shown for shown, _ in cells), f"{sum(good)} of {len(good)}" if good else ""]
        )
    for goal, of_all in ONCE.items():
        shown, good = cell(lambda of=of_all: of(found, domains))
        verdict = {True: "yes", False: "no", None: ""}[good]
        rows.append([goal, *[""] * (len(domains) - 1), shown, verdict])
    return table(["goal", *(d.replace("_", " ") for d in domains), "reached"], rows)
