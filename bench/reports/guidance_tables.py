"""Markdown tables of the studies of guidance."""

from statistics import mean

from reports.markdown import table

GAINS = ("fid", "coverage")
"""Metrics whose gains are compared."""


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
    half = mean(
        (entry["high"] - entry["low"]) / 2
        for entry in (row["metrics"]["fid"] for row in result["rows"].values())
    )
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
        f"domain{'s' * (len(domains) > 1)}; the columns without a domain are means over those that the row has. An "
        f"FID's interval is about ± {half:.1f}.\n\n{table(header, rows)}"
    )


def choices_table(result: dict) -> str:
    """The study `choices`: students, shares and the evaluator's figures; means of the ways that all domains have."""
    ways, domains = (
        list(dict.fromkeys(name.split("/")[place] for name in result["rows"])) for place in (0, 1)
    )
    rows = []
    for way in ways:
        found = {d: row for d in domains if (row := result["rows"].get(f"{way}/{d}"))}
        kl = {domain: row["student"]["kl"]["mean"] for domain, row in found.items()}
        cells = [way, *(f"{kl[domain]:.2f}" if domain in kl else "" for domain in domains)]
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
    header = [
        "way",
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
        "from the classifier, accuracy in percent, on the prior's real images. Columns without a domain are means.\n\n"
        + table(header, rows)
    )


def any_classifier_table(result: dict) -> str:
    """The study `any_classifier`: what statistics gain over the plain prior, beside BatchNorm's gain."""
    ways, domains = (
        list(dict.fromkeys(name.split("/")[place] for name in result["rows"])) for place in (0, 1)
    )
    found = {
        way: [row for d in domains if (row := result["rows"].get(f"{way}/{d}"))] for way in ways
    }
    means = {
        way: {metric: mean(row["metrics"][metric]["value"] for row in rows) for metric in GAINS}
        for way, rows in found.items()
        if len(rows) == len(domains)
    }
    plain, best = (means.get(way) for way in ("plain", "resnet, BatchNorm"))
    lines = []
    for way, rows in found.items():
        fid = [row["metrics"]["fid"]["value"] for row in rows]
        cells = [way, *(f"{value:.1f}" for value in fid)]
        if way in means:
            cells += [f"{means[way]['fid']:.1f}", f"{means[way]['coverage']:.2f}"]
            cells += [
                f"{mean(row['shares'][key] for row in rows):.2f}"
                for key in ("judge_domain", "judge_class")
            ]
            if plain and best and way != "plain":
                cells += [
                    f"{(means[way][metric] - plain[metric]) / (best[metric] - plain[metric]):.2f}"
                    for metric in GAINS
                ]
        lines.append([*cells, *[""] * (len(domains) + 7 - len(cells))])
    header = [
        "guided by",
        *(f"FID {domain.replace('_', ' ')}" for domain in domains),
        "FID",
        "coverage",
        "judge's domain",
        "judge's class",
        "gain in FID",
        "in coverage",
    ]
    return (
        f"{result['settings']['images_per_class']} images of each class. A gain is over the plain prior, as a share "
        "of what the ResNet's BatchNorm gains, on the mean of the domains.\n\n"
        + table(header, lines)
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
        f"Judge's share in the domain / in the class, of {images} images of each class and domain.\n\n"
        f"{table(header, rows)}"
    )
