"""Markdown tables of the studies that are runs of their own."""

from statistics import mean

from reports.markdown import table
from reports.summaries import ambiguity, names_by_understanding, split


def selection_table(result: dict) -> str:
    """The study `selection`: FID and shares of the images that each way keeps."""
    domains = list(dict.fromkeys(name.split("/")[1] for name in result["rows"]))
    rows = []
    for way in dict.fromkeys(name.split("/")[0] for name in result["rows"]):
        found = {d: row for d in domains if (row := result["rows"].get(f"{way}/{d}"))}
        fid = {domain: row["metrics"]["fid"]["value"] for domain, row in found.items()}
        recall, precision = (
            mean(row["metrics"][key]["value"] for row in found.values())
            for key in ("recall", "precision")
        )
        shares = (
            mean(row["shares"][key] for row in found.values())
            for key in ("judge_domain", "judge_class", "teacher_class")
        )
        rows.append(
            [
                way,
                *(f"{fid[domain]:.1f}" if domain in fid else "" for domain in domains),
                f"{mean(fid.values()):.1f}",
                *(f"{value:.2f}" for value in (precision, recall, *shares)),
            ]
        )
    images = " or ".join(
        str(number) for number in sorted({row["images"] for row in result["rows"].values()})
    )
    header = [
        "kept by",
        *(f"FID {d.replace('_', ' ')}" for d in domains),
        "FID",
        "precision",
        "recall",
        "judge's domain",
        "judge's class",
        "teacher",
    ]
    return (
        f"{images} images of each row and domain, a share of {result['settings']['keep']:g} of those of "
        f"`{result['settings']['method']}` in the first tables.\n\n{table(header, rows)}"
    )


def autoencoders_table(result: dict) -> str:
    """The study `autoencoders`: real test images through each, and the compute of a denoiser of its latents."""
    domains = list(next(iter(result["rows"].values()))["domains"])
    rows = []
    for name, row in result["rows"].items():
        through = [
            (found["real test images through the autoencoder"], found["real test images"], found)
            for found in row["domains"].values()
        ]
        rows.append(
            [
                name,
                *(
                    f"{lossy['fid']:.2f} / {lossy['coverage'] / real['coverage']:.2f}"
                    f" / {found['psnr_db']:.1f}"
                    for lossy, real, found in through
                ),
                f"{row['parameters'] / 1e6:.2f}",
                " + ".join(f"{number:,}" for number in row["updates"].values()),
                f"{row['denoiser_flops'] / 1e9:.2f}",
            ]
        )
    header = [
        "FID / coverage, of direct / PSNR in dB",
        *(domain.replace("_", " ") for domain in domains),
        "million parameters",
        "updates",
        "GFLOP of a denoiser's pass",
    ]
    settings = result["settings"]
    hardware = settings["hardware"]
    return (
        f"{settings['minutes']:g} minutes each; {hardware['device']}, threads: {hardware['threads']}.\n\n"
        f"{table(header, rows)}"
    )


CIFAR_SETS = {
    "original": "original",
    "ours": "ours",
    "plain": "plain prior",
    "deepinversion": "DeepInversion",
    "plugin-inversion": "Plug-In Inversion",
    "natural-inversion": "NaturalInversion",
    "noise": "noise",
}


def cifar_table(result: dict) -> str:
    """The study `cifar`: top-1 and divergence of the students of each set, and what its images cost."""

    def spread_of(score: dict, unit: float, decimals: int) -> str:
        return "" if score["spread"] is None else f" ± {unit * score['spread']:.{decimals}f}"

    rows = []
    for name, shown in CIFAR_SETS.items():
        if (row := result["rows"].get(name)) is None:
            continue
        top, agreement, divergence = (row[key] for key in ("accuracy", "agreement", "kl"))
        made = "flops_per_image" in row
        rows.append(
            [
                shown,
                f"{100 * top['mean']:.1f}{spread_of(top, 100, 1)}",
                f"{100 * agreement['mean']:.1f}",
                f"{divergence['mean']:.2f}{spread_of(divergence, 1, 2)}",
                f"{row['flops_per_image'] / 1e9:.0f}" if made else "",
                f"{row['seconds_per_image']:.1f}" if made else "",
            ]
        )
    any_row, asked = next(iter(result["rows"].values())), result["settings"]
    where, longer = result["environment"], ""
    if (stream := result["rows"].get("stream")) is not None:
        all_original, few = (result["rows"][name] for name in ("all original", "ours, as long"))
        reached = [f"{100 * row['accuracy']['mean']:.1f}" for row in (stream, few, all_original)]
        longer = (
            f" After {stream['updates']:,} updates one student has {reached[0]} from a stream of "
            f"{stream['images']:,} of ours, {reached[1]} from {few['images']:,} of them, and {reached[2]} from all "
            f"{all_original['images']:,} original images."
        )
    return (
        f"{any_row['images']} images of each set, {asked['seeds']} students each, {any_row['distillation']['epochs']} "
        f"passes; top-1 in percent on {any_row['measured_images']} test images, where the teacher has "
        f"{100 * any_row['teacher']['accuracy']:.1f}. {asked['iterations']} iterations of DeepInversion, and of the "
        f"others in proportion. Seconds on {where['device']}, {where['threads']} "
        f"thread{'s' * (where['threads'] > 1)}.{longer}\n\n"
        + table(
            [
                "images",
                "top-1",
                "agreement with the teacher",
                "KL from the teacher",
                "GFLOP an image",
                "seconds an image",
            ],
            rows,
        )
    )


def family_plans_table(result: dict) -> str:
    """The study `family_plans`: bytes, compute and licence of each family, and whether a guided image fits."""
    rows = []
    for name, row in result["rows"].items():
        if not row["fits"]:
            rows.append([name, "", "", "", "does not fit", "", "", "", "", row["licence"]])
            continue
        weights = {"denoiser": 0, "text encoder": 0, "decoder": 0}
        for part, role in row["components"].items():
            sizes = row["weights_bytes"][part]
            if role in weights:
                weights[role] += sizes.get(row["quantise"], sizes["none"])
        phase, peak = max(row["peak_bytes"].items(), key=lambda entry: entry[1])
        rows.append(
            [
                name,
                "NF4" if row["quantise"] == "nf4" else result["settings"]["dtype"],
                " / ".join(f"{size / 1e9:.1f}" for size in weights.values()),
                str(row["image_px"]),
                f"{peak / 1e9:.1f} ({phase})",
                f"{row['smallest_bytes'] / 1e9:.1f}",
                f"{row['step_flops'] / 1e9:,.0f}",
                f"{row['image_flops'] / 1e9:,.0f} ({row['steps']})",
                f"{row['guided_image_flops'] / row['image_flops']:.2f}",
                row["licence"],
            ]
        )
    header = [
        "prior",
        "linear layers",
        "denoiser / text / VAE GB",
        "px",
        "peak GB (phase)",
        "least GB",
        "GFLOP a step",
        "GFLOP an image (steps)",
        "guided / plain FLOPs",
        "licence of the weights",
    ]
    asked = result["settings"]
    return (
        f"One image at a time, guided by {asked['classifier'].removeprefix('arch:')}, planned for a GPU of "
        f"{asked['memory']}; text encoders count together, and come one after the other where they do not fit.\n\n"
        f"{table(header, rows)}"
    )


SUPPORT = (
    *(
        "own loop",
        "guided",
        "tokens",
        "checkpointed",
        "NF4, int8",
        "plan",
        "drop-in",
        "adapters",
        "save, load",
    ),
    *("left alone", "single file", "`arch:`", "tiny decoder"),
)
"""What the tests of families show, in the order of the table."""


def family_support_table(result: dict) -> str:
    """The study `family_support`: what tests on tiny pipelines show that each family can do."""
    rows = [
        [family, *("yes" if column in shown else "" for column in SUPPORT)]
        for family, shown in result["rows"].items()
    ]
    return table(["family", *SUPPORT], rows)


def ambiguity_table(result: dict) -> str:
    """The study `ambiguity`: each recipe's means over domains, seeds and the names that the plain prior misunderstands.

    The other names have a column of their own, and so have the classes' own names.
    """
    of_kind, shares = names_by_understanding(result), ambiguity(result)
    hard, easy = of_kind["misunderstood"], of_kind["understood"]
    rows = []
    for recipe, domains in split(result).items():
        seen = [
            one for row in domains.values() for name in hard for one in row["names"].get(name, [])
        ]

        def mean_of(what: str, seen: list[dict] = seen) -> str:
            found = [one[what] for one in seen if what in one]
            return f"{mean(found):.2f}" if found else ""

        def shown(kind: str, what: str, recipe: str = recipe) -> str:
            found = shares.get(kind, {}).get(recipe, {}).values()
            values = [of[what] for of in found]
            return f"{(min if what == 'least' else mean)(values):.2f}" if values else ""

        kept = [one["token"] for one in seen if "token" in one]
        rows.append(
            [
                recipe,
                shown("misunderstood", "mean"),
                shown("misunderstood", "least"),
                *(mean_of(what) for what in ("modifier", "teacher", "cross_entropy", "coverage")),
                mean_of("kid"),
                shown("understood", "mean"),
                shown("own", "mean"),
                f"{len(kept) - kept.count('none')} of {len(kept)}" if kept else "",
                str(len(domains)),
            ]
        )
    header = [
        *(
            "recipe",
            "judge sees the class",
            "least, of a name and domain",
            "another class of the name",
        ),
        *("teacher", "cross-entropy", "coverage", "KID", "class, of the other names"),
        *("class, by its own name", "tokens kept", "domains"),
    ]
    filled = [place for place in range(len(header)) if any(row[place] for row in rows)]
    header, *rows = ([row[place] for place in filled] for row in (header, *rows))
    return (
        f"{result['settings']['images']} images of each name and domain. Names that the plain prior misunderstands, by "
        f"the judge: {', '.join(hard) or 'none'}; others: {', '.join(easy) or 'none'}.\n\n{table(header, rows)}"
    )
