"""Markdown tables of the studies of guidance."""

from statistics import mean

from reports.markdown import table
from reports.summaries import GAINS, domain_gains


def intervals_of(result: dict) -> str:
    """How far the intervals of a result's rows reach, in words."""
    reach = {
        metric: mean((found["high"] - found["low"]) / 2 for found in each)
        for metric in GAINS
        if (each := [row["metrics"][metric] for row in result["rows"].values()])
    }
    return f"A domain's intervals are about ± {reach['fid']:.1f} in FID and ± {reach['coverage']:.2f} in coverage."


def guidance_study_table(result: dict) -> str:
    """The study `guidance_study`: each variant's FID by domain, and means over the domains it was run in."""
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
        rows.append(
            [
                variant,
                *(f"{fid[domain]:.1f}" if domain in fid else "" for domain in domains),
                f"{mean(fid.values()):.1f}",
                *(
                    f"{mean(row['metrics'][metric]['value'] for row in found.values()):.2f}"
                    for metric in ("recall", "coverage")
                ),
                *(f"{shares[key]:.2f}" for key in ("judge_domain", "judge_class", "teacher_class")),
                f"{shares['l_bn']:.0f}",
                f"{mean(row['flops_per_image'] for row in found.values()) / 1e9:.1f}",
            ]
        )
    images = sorted({row["images"] for row in result["rows"].values()})
    header = [
        "variant",
        *(f"FID {d.replace('_', ' ')}" for d in domains),
        "FID",
        "recall",
        "coverage",
        "judge's domain",
        "judge's class",
        "teacher",
        "L_BN",
        "GFLOP an image",
    ]
    return (
        f"{' or '.join(map(str, images))} images of each variant and domain, {len(domains)} "
        f"domain{'s' * (len(domains) > 1)}; the columns without a domain are means over those that the row has. "
        f"{intervals_of(result)} `base` is `DAG` of the first tables, `paper` is `paper DAG` of the methods.\n\n"
        f"{table(header, rows)}"
    )


def choices_table(result: dict) -> str:
    """The study `choices`: students, shares and the evaluator's figures; means of variants that all domains have."""
    variants, domains = (
        list(dict.fromkeys(name.split("/")[place] for name in result["rows"])) for place in (0, 1)
    )
    rows = []
    for variant in variants:
        found = {d: row for d in domains if (row := result["rows"].get(f"{variant}/{d}"))}
        kl = {domain: row["student"]["kl"]["mean"] for domain, row in found.items()}
        cells = [variant, *(f"{kl[domain]:.2f}" if domain in kl else "" for domain in domains)]
        if len(found) == len(domains):
            each = found.values()
            cells += [
                f"{mean(kl.values()):.3f}",
                f"{100 * mean(row['student']['accuracy']['mean'] for row in each):.1f}",
                *(
                    f"{mean(row['metrics'][metric]['value'] for row in each):.2f}"
                    for metric in ("fid", "coverage", "recall")
                ),
                *(
                    f"{mean(row['shares'][key] for row in each):.2f}"
                    for key in ("judge_domain", "judge_class")
                ),
                f"{mean(row['flops_per_image'] for row in each) / 1e9:.1f}",
            ]
        rows.append([*cells, *[""] * (len(domains) + 9 - len(cells))])
    asked = result["settings"]
    spread, points = (
        mean(row["student"][score]["spread"] for row in result["rows"].values())
        for score in ("kl", "accuracy")
    )
    header = [
        "variant",
        *(f"KL {domain.replace('_', ' ')}" for domain in domains),
        "KL",
        "student's accuracy",
        "FID",
        "coverage",
        "recall",
        "judge's domain",
        "judge's class",
        "GFLOP an image",
    ]
    return (
        f"{asked['images_per_class']} images of each class, {asked['seeds']} students ({asked['student']}); KL in nats "
        "from the classifier, accuracy in percent, on the prior's real images. Columns without a domain are means. "
        f"{intervals_of(result)} In a domain, students' KL varies by ± {spread:.2f} and accuracy by "
        f"± {100 * points:.1f} points. `default` is `DAG` of the first tables, and CFG in the middle "
        "is `--preset fast`."
        "\n\n" + table(header, rows)
    )


def any_classifier_table(result: dict) -> str:
    """The study `any_classifier`: what statistics gain over the plain prior, beside BatchNorm's gain."""
    ways, domains = (
        list(dict.fromkeys(name.split("/")[place] for name in result["rows"])) for place in (0, 1)
    )
    gains, lines = domain_gains(result), []
    for way in ways:
        rows = [row for d in domains if (row := result["rows"].get(f"{way}/{d}"))]
        metrics = {metric: [row["metrics"][metric]["value"] for row in rows] for metric in GAINS}
        pairs = zip(metrics["fid"], metrics["coverage"], strict=True)
        cells = [way, *(f"{fid:.1f} / {coverage:.2f}" for fid, coverage in pairs)]
        if len(rows) == len(domains):
            cells += [f"{mean(metrics['fid']):.1f}", f"{mean(metrics['coverage']):.2f}"]
            cells += [
                f"{mean(row['shares'][key] for row in rows):.2f}"
                for key in ("judge_domain", "judge_class")
            ]
            cells += [f"{gains[way][metric]:.2f}" for metric in GAINS if way in gains]
        lines.append([*cells, *[""] * (len(domains) + 7 - len(cells))])
    header = [
        "guided by",
        *(f"FID / coverage {domain.replace('_', ' ')}" for domain in domains),
        "FID",
        "coverage",
        "judge's domain",
        "judge's class",
        "gain in FID",
        "in coverage",
    ]
    return (
        f"{result['settings']['images_per_class']} images of each class. A gain is over the plain prior, as a share "
        f"of what the ResNet's BatchNorm gains, on the mean of the domains. {intervals_of(result)} "
        "`resnet, BatchNorm` is `DAG` of the first tables.\n\n" + table(header, lines)
    )


def few_steps_table(result: dict) -> str:
    """The study `few_steps`: the judge's shares of each variant, by domain and on the mean, and an image's compute."""
    found: dict[str, dict[str, dict]] = {}
    for name, row in result["rows"].items():
        variant, domain = name.split("/")
        found.setdefault(variant, {})[domain] = row
    domains = list(next(iter(found.values())))
    rows = []
    for variant, by_domain in found.items():
        shares = [by_domain[domain]["shares"] for domain in domains if domain in by_domain]
        if len(shares) < len(domains):
            continue
        pairs = [(one["judge_domain"], one["judge_class"]) for one in shares]
        pairs.append((mean(pair[0] for pair in pairs), mean(pair[1] for pair in pairs)))
        flops = next(
            row["flops_per_image"] for row in by_domain.values() if "flops_per_image" in row
        )
        cells = [f"{domain:.2f} / {noun:.2f}" for domain, noun in pairs]
        rows.append([variant, *cells, f"{flops / 1e9:.1f}"])
    header = ["variant", *(name.replace("_", " ") for name in domains), "mean", "GFLOP an image"]
    images = result["settings"]["images_per_class"]
    return (
        f"Judge's share in the domain / in the class, of {images} images of each class and domain. `guided, 30 "
        "steps` is `DAG` of the first tables.\n\n"
        f"{table(header, rows)}"
    )
