"""Markdown tables of what things cost: time, memory, compute."""

from statistics import mean

from reports.markdown import table


def memory_table(result: dict) -> str:
    """The study `memory`: by phase and setting, the predicted peak beside the measured one."""

    def setting(row: dict) -> str:
        decoder = ", full decoder" if row["decoder"] == "full" else ""
        many = "s" if row["images"] > 1 else ""
        return f"{row['prior']}, {row['dtype']}, {row['images']} image{many} of {row['image_px']} px{decoder}"

    def phase(row: dict) -> str:
        return f"{row['phase']}, checkpointed" if row["checkpoint"] else row["phase"]

    cells = {
        (phase(row), setting(row)): (
            f"{row['predicted_bytes'] / 1e6:.1f} / {row['measured_bytes'] / 1e6:.1f} ({row['error']:+.1%})"
        )
        for row in result["rows"]
    }
    phases, settings = (list(dict.fromkeys(key[place] for key in cells)) for place in (0, 1))
    rows = [[name, *(cells.get((name, column), "") for column in settings)] for name in phases]
    what = "reserved" if result["device"].startswith("cuda") else "alive at once in tensors"
    return (
        f"Predicted peak in MB / what was {what} on {result['device']} (error), both without weights; `generate` is a "
        f"whole run. Largest error {result['largest_error']:.1%}.\n\n{table(['phase', *settings], rows)}"
    )


def decoders_table(result: dict) -> str:
    """The study `decoders`: what guidance sees through each decoder, what that costs, and what images become of it."""
    generated = result["generated"]

    def shares(name: str) -> str:
        if name not in generated:
            return ""
        cells = generated[name].values()
        return " / ".join(
            f"{mean(cell[key] for cell in cells):.2f}" for key in ("judge_domain", "judge_class")
        )

    rows = [
        [
            name,
            f"{way['mean_cosine']:.2f} ({way['least_cosine']:.2f})",
            f"{way['flops']:.2f}",
            f"{way['time']:.2f}",
            shares(name),
        ]
        for name, way in result["ways"].items()
    ]
    rows += [[name, "", "", "", shares(name)] for name in generated if name not in result["ways"]]
    tflops = ", ".join(
        f"{name} {value:g}" for name, value in result["stable_diffusion_tflops"].items()
    )
    header = [
        "guidance through",
        "cosine of the gradient (least)",
        "FLOPs",
        "time",
        "judge's domain / class",
    ]
    return (
        "Decoding and its gradient at half the image's size, compared with the full size; judge's shares of what was "
        f"guided so. Stable Diffusion's own, TFLOPs an image: {tflops}.\n\n{table(header, rows)}"
    )


BACKWARD = 2
"""A backward pass through the denoiser takes about twice the FLOPs of a forward one."""


NO_BETTER = "no better"


def cat_compute_table(result: dict) -> str:
    """The study `cat_compute`: what a class token takes by each schedule, and accuracies on seeds it did not see."""

    def of(schedule: str) -> list[dict]:
        return [cell for name, cell in result["cells"].items() if name.split("/")[0] == schedule]

    def compute(cells: list[dict]) -> float:
        return mean(
            c["learning"]["denoiser_forward"] + BACKWARD * c["learning"]["denoiser_backward"]
            for c in cells
        )

    published, rows = of("published"), []
    for schedule in ("plain", "published", "ours"):
        cells = of(schedule)
        if not cells:
            rows.append([schedule, *["not measured"] * 6])
            continue
        cost = ["0", "0", "", ""]
        if schedule != "plain":
            seconds = sum(
                s for name, s in result["seconds"].items() if name.split("/")[0] == schedule
            )
            forward, backward = (
                mean(c["learning"][f"denoiser_{way}"] for c in cells)
                for way in ("forward", "backward")
            )
            ratio = f"{compute(published) / compute(cells):.1f}" if published else "not measured"
            cost = [f"{forward:.0f}", f"{backward:.0f}", f"{seconds / len(cells):.0f}", ratio]
        accuracies = (
            f"{mean(c[key] for c in cells):.2f}" for key in ("teacher_class", "judge_class")
        )
        rows.append([schedule, *cost, *accuracies])
    unmoved = sum(c["learning"].get("outcome") == NO_BETTER for c in of("ours"))
    epochs = result["settings"].get("schedules", {}).get("published", {}).get("epochs")
    all_epochs = ""
    if epochs and of("ours"):
        whole = mean(compute([c]) * epochs / c["learning"]["epochs"] for c in published)
        all_epochs = (
            f" Published, a class is done once it is recognised; all of its {epochs} epochs would take "
            f"{whole / compute(of('ours')):.1f} times as much as ours. Of our {len(of('ours'))} tokens {unmoved} were "
            "no better than the plain prompt on images that learning did not read, which is kept then."
        )
    classes = ", ".join(
        f"{kind} ({domain.replace('_', ' ')})"
        for domain, kinds in result["classes"].items()
        for kind in kinds
    )
    header = [
        "tokens",
        "denoiser passes",
        "backward",
        "seconds",
        "published / this",
        "teacher",
        "judge",
    ]
    images = result["settings"]["images_per_class"]
    return (
        f"A class: one latent through the denoiser is a pass, a backward one counts as {BACKWARD}. Accuracies on "
        f"{images} images of each class: {classes}.{all_epochs}\n\n{table(header, rows)}"
    )


def onnx_runtime_table(result: dict) -> str:
    """The study `onnx_runtime`: eager torch's time, and ONNX Runtime's over it."""
    threads = result["threads"]
    rows = [
        [
            part,
            *(
                text
                for by in threads.values()
                for text in (
                    f"{1e3 * by[part]['torch']['s']:.0f}",
                    f"{by[part]['onnx']['ratio']:.2f}",
                )
            ),
        ]
        for part in next(iter(threads.values()))
    ]
    header = ["part"]
    for number in threads:
        of = f"{number} thread{'s' if number != '1' else ''}"
        header += [f"torch ms, {of}", f"ONNX Runtime / torch, {of}"]
    settings = result["settings"]
    return (
        f"{settings['classifier']} with the embedded prior, {settings['batch']} images at once; under 1, ONNX Runtime "
        f"is faster.\n\n{table(header, rows)}"
    )


def gpu_memory_table(results: dict | None) -> str:
    """bench/gpu/memory.py: by case, each phase's predicted and measured peak, seconds of a step, and of an update."""
    measured = results and results["device"] == "cuda"
    memory = results.get("memory", {}) if measured else {}
    cases = {name: row for name, row in memory.items() if "generate" in row}
    if not cases:
        return "Not measured yet: `make gpu`, on a CUDA machine."
    phases = ("text", "sampling", "guidance", "decode")

    def stopped(told: dict) -> str:
        kind = next(
            (kind for kind in ("refused", "out_of_memory", "failed") if kind in told),
            "not measured",
        )
        return kind.replace("_", " ")

    def shown(told: dict, name: str) -> str:
        phase = told.get("phases", {}).get(name, told)
        if "measured_bytes" not in phase:
            return stopped(phase)
        return f"{phase['predicted_bytes'] / 1e9:.2f} / {phase['measured_bytes'] / 1e9:.2f}"

    def figures(told: dict, part: str, *names: str) -> list[str]:
        found = told.get(part, told)
        return [f"{found[name]:.3f}" if name in found else stopped(found) for name in names]

    rows = []
    for name, row in cases.items():
        generate, learn = row["generate"], row.get("learn")
        of_learning = ["", "", ""]  # the paper's way is measured without
        if learn is not None:
            of_learning = [shown(learn, "cat"), shown(learn, "rows")]
            of_learning += figures(learn, "update", "seconds_per_update")
        rows.append(
            [
                name,
                *(shown(generate, phase) for phase in phases),
                *figures(generate, "step", "plain_s", "guided_s", "ratio"),
                *of_learning,
            ]
        )
    header = [
        "budget and batch",
        *phases,
        "plain step s",
        "guided step s",
        "guided / plain",
        "cat",
        "rows",
        "CAT update s",
    ]
    largest = memory.get("errors", {}).get("largest")
    told = (
        "No phase was measured."
        if largest is None
        else f"Largest error of a prediction {largest:.1%}."
    )
    return f"Phases: predicted / measured peak in GB. {told}\n\n{table(header, rows)}"


def sd_scale_table(result: dict) -> str:
    """The study `sd_scale`: a guided step over a plain one at the size of real priors, ours and the paper's."""
    settings, where = result["settings"], result["environment"]
    rows = [
        [
            name.removeprefix("arch:"),
            f"{row['ours']['plain_ms'] / 1e3:.1f}",
            *(
                f"{row[way][key]:.2f}" if way in row else "not measured"
                for key in ("time_ratio", "flops_ratio")
                for way in ("ours", "paper")
            ),
        ]
        for name, row in result["rows"].items()
    ]
    header = ["prior", "plain step s", "time: ours", "paper's", "FLOPs: ours", "paper's"]
    return (
        f"Guided / plain step, {settings['classifier'].removeprefix('arch:')}, {settings['images']} image at once, "
        f"on {where['device']} with {where['threads']} threads, torch {where['versions']['torch']}.\n\n"
        f"{table(header, rows)}"
    )


def evaluator_table(result: dict) -> str:
    """The study `evaluator`: values beside those of kept libraries, and what many rows of features take."""
    found = result["equal"]
    values = table(
        ["metric", "ours", "library", "relative gap"],
        [
            [
                name.replace("_", " "),
                f"{row['ours']:.6g}",
                f"{row['library']:.6g}",
                f"{row['relative_gap']:.0e}",
            ]
            for name, row in found["values"].items()
        ],
    )
    near = "precision, recall, density, coverage"
    what = {"stream": "FID, and KID of 10 subsets", "neighbours": near, "narrow_neighbours": near}
    sizes = table(
        ["two sets of", "rows", "features", "peak of the process, GiB", "seconds"],
        [
            [
                what[part],
                f"{result[part]['values']['rows']:,}",
                str(result[part]["width"]),
                f"{result[part]['peak_bytes'] / 2**30:.2f}",
                f"{sum(value for key, value in result[part]['values'].items() if key.endswith('_s')):.0f}",
            ]
            for part in what
            if part in result
        ],
    )
    return f"On the same random features:\n\n{values}\n\nFiles of features that are never held whole:\n\n{sizes}"
