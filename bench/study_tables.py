"""Markdown tables of the studies that are runs of their own; see bench/tables.py."""

from statistics import mean

from cost_tables import table


def guidance_study_table(result: dict) -> str:
    """bench/guidance_study.py: each variant's FID by domain, and means over the domains it was run in."""
    domains = list(dict.fromkeys(name.split("/")[1] for name in result["rows"]))
    variants = list(dict.fromkeys(name.split("/")[0] for name in result["rows"]))
    rows = []
    for variant in variants:
        found = {d: row for d in domains if (row := result["rows"].get(f"{variant}/{d}"))}
        fid = {domain: row["metrics"]["fid"]["value"] for domain, row in found.items()}
        shares = {
            key: mean(row["shares"][key] for row in found.values())
            for key in ("judge_domain", "judge_class", "teacher_class", "l_bn")
        }
        rows.append([
            variant, *(f"{fid[domain]:.1f}" if domain in fid else "" for domain in domains),
            f"{mean(fid.values()):.1f}",
            *(f"{shares[key]:.2f}" for key in ("judge_domain", "judge_class", "teacher_class")),
            f"{shares['l_bn']:.0f}",
            f"{mean(row['flops_per_image'] for row in found.values()) / 1e9:.1f}",
        ])  # fmt: skip
    images = sorted({row["images"] for row in result["rows"].values()})
    half = mean(
        (entry["high"] - entry["low"]) / 2
        for entry in (row["metrics"]["fid"] for row in result["rows"].values())
    )
    header = [
        "variant", *(f"FID {d.replace('_', ' ')}" for d in domains), "FID", "judge's domain", "judge's class",
        "teacher", "L_BN", "GFLOP an image",
    ]  # fmt: skip
    return (
        f"{' or '.join(map(str, images))} images of each variant and domain, {len(domains)} "
        f"domain{'s' * (len(domains) > 1)}; the columns without a domain are means over those that the row has. An "
        f"FID's interval is about ± {half:.1f}.\n\n{table(header, rows)}"
    )
