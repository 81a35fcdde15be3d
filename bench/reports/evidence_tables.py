"""Markdown tables of what the images are like and what they teach."""

from collections.abc import Mapping
from statistics import mean

from reports.markdown import signed, table
from reports.summaries import GAINS, differences, mean_interval, with_tokens


def embedded_table(result: dict) -> str:
    """`ddis embedded check --json`: what the embedded models reach, beside what is asked of them."""
    goals = result["goals"]
    rows = [
        [
            name.replace("_", " "),
            "not measured" if value is None else f"{value:.3g}",
            f"{goals[name]:g}",
        ]
        for name, value in result["measures"].items()
    ]
    return table(["embedded models", "reached", "goal"], rows)


def embedded_figures_table(result: dict) -> str:
    """The study `embedded_figures`: what the autoencoder leaves of real images, and how near the plain prior comes."""
    sets = {
        "real test images": "real test images",
        "the same through the autoencoder": "real test images through the autoencoder",
        "the prior's training images": "other real images",
        "plain prior, domain in the prompt": "plain prior",
    }
    rows = []
    for domain, found in result["domains"].items():
        cells = [
            f"{found[name]['fid']:.2f} / {found[name]['coverage']:.2f} of {found[name]['images']:,}"
            for name in sets.values()
        ]
        psnr, close = found["psnr_db"], found["close to a training image"]
        rows.append([domain.replace("_", " "), *cells, f"{psnr:.1f}", f"{close:.2f}"])
    made = table(["FID / coverage of images", *sets, "PSNR, dB", "memorised"], rows)
    return (
        f"{made}\n\nMemorised: the share of the plain prior's images that lie closer to one of its training images "
        "than 19 of 20 real test images do; .05 if nothing is."
    )


def _cells(result: dict, method: str, domain: str) -> list[dict]:
    """What the study `evidence` counted of each class and seed of one row."""
    seeds = with_tokens(result, method, domain).get("seeds", {})
    return [cell for by_class in seeds.values() for cell in by_class.values()]


def _domains(result: dict) -> list[str]:
    return list(dict.fromkeys(name.split("/")[1] for name in result["rows"]))


def guidance_table(result: dict) -> str:
    """The study `evidence`: shares by domain and method, each the mean over its seeds."""
    methods = [
        m
        for m in ("plain", "CAT", "paper DAG", "DAG", "both", "fast", "tuned", "tuned, fast")
        if any(_cells(result, m, d) for d in _domains(result))
    ]

    def shown(cells: list[dict]) -> str:
        if not cells:
            return "not measured"
        domain, kind, distance = (
            mean(c[key] for c in cells) for key in ("judge_domain", "judge_class", "l_bn")
        )
        return f"{domain:.2f} / {kind:.2f} / {distance:.0f}"

    domains = _domains(result)
    rows = [[d.replace("_", " "), *(shown(_cells(result, m, d)) for m in methods)] for d in domains]
    rows.append(
        ["mean", *(shown([c for d in domains for c in _cells(result, m, d)]) for m in methods)]
    )
    numbers = ", ".join(
        f"{m} {max(sum(c['images'] for c in _cells(result, m, d)) for d in domains)}"
        for m in methods
    )
    return (
        f"Judge's share in the domain / in the class / L_BN; images of each row and column: {numbers}."
        "\n\n" + table(["classifier of", *(SHOWN.get(m, m) for m in methods)], rows)
    )


SHOWN = {
    "paper DDIS": "the paper's guidance, our tokens",
    "fast": "DAG, `--preset fast`",
    "tuned": "DAG, tuned prompt",
    "tuned, fast": "DAG, tuned prompt, `--preset fast`",
}
"""Methods by what a table calls them, where a shorter name would say too much."""


def fid_interval(row: dict) -> str:
    """The FID that the evaluator gave a row, with its interval."""
    return interval(row["metrics"]["fid"], 1) if "metrics" in row else "not measured"


def interval(found: Mapping[str, float], decimals: int) -> str:
    """A value with its interval in parentheses."""
    value, low, high = (f"{found[end]:.{decimals}f}" for end in ("value", "low", "high"))
    return f"{value} ({low} to {high})"


DECIMALS = {"fid": 1, "kid": 3, "precision": 2, "recall": 2, "coverage": 2}
"""The metrics that a table of methods shows, and how exactly."""


def methods_table(result: dict, methods: list[str], seconds: bool = False) -> str:
    """The study `evidence`: FID, KID, precision and recall of each method against the domain's real images.

    Means are over all domains, or missing; those of FID and coverage have an interval. seconds: also what an image
    took.
    """
    domains = _domains(result)

    rows = []
    for method in methods:
        found = [with_tokens(result, method, domain) for domain in domains]
        whole = [row for row in found if "metrics" in row]
        if not whole:
            continue
        cells = [SHOWN.get(method, method), *map(fid_interval, found)]
        for key, decimals in DECIMALS.items():
            each = [row["metrics"][key] for row in whole]
            shown = f"{mean(of['value'] for of in each):.{decimals}f}"
            if key in GAINS:
                shown = interval(mean_interval(each), decimals)
            cells.append(shown if len(whole) == len(domains) else "")
        cells.append(f"{mean(row['flops_per_image'] for row in whole) / 1e9:.0f}")
        cells += [f"{mean(row['seconds_per_image'] for row in whole):.2g}"] if seconds else []
        rows.append([*cells, str(whole[0]["images"])])
    header = [
        "method",
        *(f"FID {d.replace('_', ' ')}" for d in domains),
        "FID",
        "KID",
        "precision",
        "recall",
        "coverage",
        "GFLOP an image",
        *(["seconds an image"] if seconds else []),
        "images",
    ]
    return table(header, rows)


def tune_table(result: dict) -> str:
    """The study `tune`: each prompt's and each scale's score without data beside its FID by real images."""
    prompts = [name for name in _tried(result) if "{class}" in name]
    scales = [name for name in _tried(result) if name not in prompts]
    parts = ["Score (least is chosen) / FID."]
    if prompts:
        parts += ["Prompts, with the FID at the default scale:", _tuned(result, prompts, "")]
    if prompts and scales:
        parts += ["Scales, with the prompt of the least score:"]
    if scales:
        parts += [_tuned(result, scales, "scale ")]
    return "\n\n".join(parts)


def _tried(result: dict) -> list[str]:
    return list(dict.fromkeys(name.split("/")[1] for name in result["rows"]))


def _tuned(result: dict, tried: list[str], what: str) -> str:
    domains = list(dict.fromkeys(name.split("/")[0] for name in result["rows"]))
    rows = []
    for domain in domains:
        found = {name: row for name in tried if (row := result["rows"].get(f"{domain}/{name}"))}
        if len(found) < len(tried):
            continue
        chosen, best = (min(found, key=lambda name: found[name][key]) for key in ("score", "fid"))
        cells = [f"{row['score']:.2f} / {row['fid']:.1f}" for row in found.values()]
        ratio = found[chosen]["fid"] / found[best]["fid"]
        rows.append([domain.replace("_", " "), *cells, chosen, best, f"{ratio:.2f}"])
    header = ["classifier of", *(f"{what}{name}" for name in tried), "tuned", "best by FID"]
    return table([*header, "FID tuned / best"], rows)


SETS = {
    "folder": "ours",
    "plain": "plain prior",
    "named": "plain prior, domain in the prompt",
    "other": "other real images",
    "autoencoder": "original, through the autoencoder",
    "stream": "a stream",
}
"""What the tables of `downstream` call their sets."""
OF_TASK = {
    "tokens": {"folder": "with tokens"},
    "best": {"folder": "`--preset best`", "fast": "`--preset fast`"},
}
"""Where a task calls them otherwise."""


def downstream_table(result: dict, task: str) -> str:
    """The study `downstream`: what networks reach on real test images after learning from each set.

    Means over the domains, of the sets that all have.
    """
    found = {
        name.split("/")[1]: row
        for name, row in result["rows"].items()
        if name.startswith(f"{task}/")
    }
    if not found:
        return f"Not measured yet: `python bench/studies downstream --data FOLDER --tasks {task}`."
    sets = list(dict.fromkeys(name for row in found.values() for name in row["rows"]))
    names = SETS | OF_TASK.get(task, {})
    equal = all(len({of["images"] for of in row["rows"].values()}) == 1 for row in found.values())

    def shown(of: dict | None) -> str:
        if of is None:
            return ""
        spread = of["accuracy"]["spread"]
        cell = f"{100 * of['accuracy']['mean']:.1f}"
        cell += "" if spread is None else f" ± {100 * spread:.1f}"
        cell += f" / {of['kl']['mean']:.2f}" if "kl" in of else ""
        return cell if equal else f"{cell} ({of['images']:,} images)"

    rows = [
        [
            domain.replace("_", " "),
            *([str(next(iter(row["rows"].values()))["images"])] if equal else []),
            f"{100 * row['teacher']['accuracy']:.1f}",
            *(shown(row["rows"].get(name)) for name in sets),
        ]
        for domain, row in found.items()
    ]
    if len(found) > 1:
        teacher = mean(row["teacher"]["accuracy"] for row in found.values())
        means = (_mean_cell([row["rows"].get(name) for row in found.values()]) for name in sets)
        rows.append(["mean", *([""] if equal else []), f"{100 * teacher:.1f}", *means])
    header = [
        "classifier of",
        *(["images"] if equal else []),
        "classifier",
        *(names.get(name, name) for name in sets),
    ]
    ours = "stream" if task == "stream" else "folder"
    gaps = _gaps(differences(found, ours), names, names[ours])
    several = any(
        of["accuracy"]["spread"] is not None
        for row in found.values()
        for of in row["rows"].values()
    )
    what = "with its deviation over the seeds" if several else "of one student"
    return (
        f"Accuracy in percent, {what}, and behind it the divergence from the classifier (KL, in nats)."
        f"\n\n{table(header, rows)}{gaps}"
    )


def _gaps(found: Mapping[str, Mapping], names: Mapping[str, str], ours: str) -> str:
    """What ours reach less what each other set does: see `differences`. Empty where no result has it."""
    rows = []
    for name, of in found.items():
        cells = []
        for score, unit, decimals in (("accuracy", 100, 1), ("kl", 1, 2)):
            low, at, high = (
                signed(unit * of[score][end], decimals) for end in ("low", "mean", "high")
            )
            cells.append(f"{at} ({low} to {high})")
        rows.append([names.get(name, name), *cells])
    if not rows:
        return ""
    return "\n\n" + table([f"{ours} less", "accuracy, points", "KL"], rows)


def _mean_cell(found: list[dict | None]) -> str:
    """Mean accuracy and divergence of one set over the domains; empty where a domain lacks it."""
    rows = [row for row in found if row is not None]
    if len(rows) < len(found):
        return ""
    cell = f"{100 * mean(row['accuracy']['mean'] for row in rows):.1f}"
    if all("kl" in row for row in rows):
        cell += f" / {mean(row['kl']['mean'] for row in rows):.2f}"
    return cell


def styles_table(result: dict) -> str:
    """The study `styles`: FID against each style's own set."""
    rows = [
        [
            style.replace("_", " "),
            *(
                f"{row['accuracy'][what]:.2f}" if what in row["accuracy"] else ""
                for what in ("training", "test")
            ),
            *(f"{row['fid'][method]:.1f}" for method in ("plain", "ours")),
        ]
        for style, row in result["rows"].items()
    ]
    return table(["style", "classifier on its set", "on more of it", "FID plain", "FID ours"], rows)
