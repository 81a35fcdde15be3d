"""The table of what many workers cost."""

from reports.markdown import table


def cluster_table(result: dict) -> str:
    """The study `cluster`: the driver in simulated time, finishing, workers that sleep, and Ray beside one process."""
    settings, parts = result["settings"], []
    if "simulation" in result:
        rows = [
            [
                f"{row['workers']}",
                f"{row['images']:,}",
                f"{row['of_ideal']:.1%}",
                f"{row['workers_lost']} in {row['hours']:.1f} h",
                f"{row['parts_given'] - row['parts']} of {row['parts']:,}",
                f"{row['parts_a_cpu_second']:,.0f}",
            ]
            for row in result["simulation"]
        ]
        header = [
            "workers",
            "images",
            "ideal time / time",
            "workers lost",
            "parts made again",
            "parts a second of the driver's CPU time",
        ]
        parts.append(
            f"The driver in simulated time: parts of {settings['part_seconds']:.0f} s (spread "
            f"{settings['spread']:.0%}), {settings['lost_an_hour']:.0%} of the workers lost in an hour, "
            f"{settings['start_seconds']:.0f} s until one is ready. Ideal is all work over all workers.\n\n"
            f"{table(header, rows)}"
        )
    if "finish" in result:
        rows = [
            [
                f"{row['images']:,}",
                f"{row['parts']:,}",
                f"{row['peak_mb']:.0f} MB",
                f"{row['seconds']:.0f} s",
            ]
            for row in result["finish"]
        ]
        parts.append(
            f"`ddis finish` of images with {settings['classes']:,} logits each:\n\n"
            f"{table(['images', 'parts', 'peak memory', 'time'], rows)}"
        )
    if "sleep" in result:
        rows = [
            [f"{row['workers']}", f"{row['parts']}", f"{row['efficiency']:.1%}"]
            for row in result["sleep"]
        ]
        parts.append(
            f"Ray's workers, whose parts are {result['sleep'][0]['part_seconds']} s of sleep, from when the last of "
            f"them began:\n\n{table(['workers', 'parts', 'share of time asleep'], rows)}"
        )
    if "calls" in result:
        rows = [
            [
                f"{row['workers']}",
                f"{row['parts']:,}",
                f"{row['parts_a_second']:,.1f}",
                f"{row['parts_a_cpu_second']:,.0f}",
            ]
            for row in result["calls"]
        ]
        header = ["workers", "parts", "parts a second", "parts a second of the driver's CPU time"]
        parts.append(
            "The driver and Ray's workers on one machine, with parts that take no time, which is what a run's own "
            f"bookkeeping allows at most:\n\n{table(header, rows)}"
        )
    if "ray" in result:
        rows = [
            [
                f"{row['workers']}",
                f"{row['parts']}",
                _spread(row["process_cpu_seconds"]),
                _spread(row["ray_cpu_seconds"]),
                _overhead(row),
            ]
            for row in result["ray"]
        ]
        header = ["workers", "parts", "CPU time, processes", "CPU time, Ray", "overhead"]
        repeats = {len(row["ray_cpu_seconds"]) for row in result["ray"]}
        runs = f"{min(repeats)} runs of each, in turn: mean (least to most)"
        if repeats == {1}:
            runs = "one run of each, so the figures are rough"
        parts.append(
            f"The same parts by as many processes, each with its share, and by Ray's workers, once all are ready, on "
            f"{result['hardware']['device']}; {runs}:\n\n{table(header, rows)}"
        )
    return "\n\n".join(parts)


def _spread(seconds: list[float]) -> str:
    mean = f"{sum(seconds) / len(seconds):.1f} s"
    return mean if len(seconds) == 1 else f"{mean} ({min(seconds):.1f} to {max(seconds):.1f})"


def _overhead(row: dict) -> str:
    """Of all runs together, and of the pairs that ran in turn."""
    pairs = zip(row["process_cpu_seconds"], row["ray_cpu_seconds"], strict=True)
    of_pairs = [ray / process - 1 for process, ray in pairs]
    ranging = f" ({min(of_pairs):+.1%} to {max(of_pairs):+.1%})" if len(of_pairs) > 1 else ""
    return f"{row['overhead']:+.1%}{ranging}"
