"""The Markdown table of the study `throughput`."""

from reports.evidence_tables import fid_interval
from reports.markdown import table


def throughput_table(result: dict) -> str:
    """The study `throughput`: images a minute by method and number of steps, and a guided step over a plain one."""
    names = {"plain": "plain prior", "paper": "paper's DAG", "ours": "ours"}
    rates, ratios = result["images_per_minute"], result["guided_over_plain_step"]
    steps = list(dict.fromkeys(name.split("/")[1] for name in rates))
    rows = [
        [
            names[method],
            *(f"{rates[f'{method}/{number}']:.0f}" for number in steps),
            f"{ratios[method]:.2f}" if method in ratios else "1",
        ]
        for method in names
    ]
    where, settings = result["environment"], result.get("settings", result)
    header = [
        "method",
        *(f"images a minute, {number} steps" for number in steps),
        "guided / plain step",
    ]
    return (
        f"Embedded prior, {settings['images']} images at once, on {where['device']} with "
        f"{where['threads']} threads. Ours is `DAG` of the first tables, and fast is `--preset fast`.\n\n"
        f"{table(header, rows)}{_ways(result)}{_quality(result)}{_demo(result)}"
    )


def _ways(result: dict) -> str:
    """The part `ways` of the study: images a minute by what computes the networks."""
    if "ways" not in result:
        return ""
    steps = max(result["settings"]["steps"])
    rows = [
        [
            name,
            *(f"{rate[drawn]:.0f}" for drawn in rate),
            *(f"{rate['plain'] / rate[drawn]:.2f}" for drawn in rate if drawn != "plain"),
        ]
        for name, rate in result["ways"].items()
    ]
    (plain, *guided) = next(iter(result["ways"].values()))
    header = [
        "networks in",
        f"{plain}, images a minute",
        *guided,
        *(f"time of {drawn} / of {plain}" for drawn in guided),
    ]
    return (
        f"\n\nWhole runs of {steps} steps, by what computes the networks:\n\n{table(header, rows)}"
    )


def _quality(result: dict) -> str:
    """The part `quality` of the study: FID by dtype."""
    if "quality" not in result:
        return ""
    found = result["quality"]
    domains = list(found["float32"])
    rows = [[dtype, *(fid_interval(found[dtype][domain]) for domain in domains)] for dtype in found]
    header = ["dtype", *(domain.replace("_", " ") for domain in domains)]
    images = found["float32"][domains[0]]["images"]
    scale = result["settings"]["alignment"]["scale"]
    return (
        f"\n\nFID of {images} guided images of the same seeds, with a scale of {scale:g}:\n\n"
        f"{table(header, rows)}"
    )


def _demo(result: dict) -> str:
    """The part `demo` of the study."""
    if "demo" not in result:
        return ""
    found = result["demo"]
    return (
        f"\n\n`ddis demo` takes {found['seconds']:.0f} s, loading included, and at most "
        f"{found['peak_bytes'] / 1e9:.2f} GB of memory."
    )
