"""What is claimed of a GPU, and what results.json says of it."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

Results = Mapping[str, Any]
NOT_MEASURED = "not measured"
BATCHES = (1, 4, 8)
TOLERANCE = {"float32": 2e-5, "float16": 4e-3, "bfloat16": 3e-2}
"""As in gpu/exactness.py, which needs torch; a test compares them."""
LEAST_SHARE, MOST_FUSED, MOST_GUIDED, MOST_ERROR = 0.9, 1.05, 1.15, 0.1
LARGEST_PEAK = {1: 4e9, 8: 12e9}
"""Bytes that `generate` may reserve, by batch; each is also a budget of gpu/memory.py."""
CAT_BYTES = 6e9
LAUNCHING = ("graph", "eager")
"""How the engine launches kernels, the way that is its default first."""


@dataclass(frozen=True)
class Claim:
    """One line of the table. goal: "" where none is set. holds: None where it was not measured, or has no goal."""

    name: str
    goal: str
    reached: str = NOT_MEASURED
    holds: bool | None = None

    @property
    def verdict(self) -> str:
        """'yes', 'no', 'not measured', or "" for what has no goal."""
        if self.reached == NOT_MEASURED:
            return NOT_MEASURED
        return "" if self.holds is None else "yes" if self.holds else "no"


Reading = tuple[str, bool | None]
"""What was reached, and whether that is the goal."""


def claims(results: Results) -> list[Claim]:
    """Every claim, in the order of the table. Those of a dry run are not measured."""
    measured = results if results.get("device") == "cuda" else {}
    found = []
    for name, goal, read in _readings():
        try:
            reached, holds = read(measured)
        except KeyError:  # the part did not run, or its row failed
            found.append(Claim(name, goal))
        else:
            found.append(Claim(name, goal, reached, holds))
    return found


def provenance(results: Results) -> tuple[str, str]:
    """Device and commit, and the versions."""
    env = results.get("env", {})
    name = env.get("device", {}).get("name", "unknown device")
    versions = ", ".join(f"{key} {value}" for key, value in env.get("versions", {}).items())
    return f"{name}, commit {env.get('commit', 'unknown')}", versions


def _readings() -> Iterator[tuple[str, str, Callable[[Results], Reading]]]:
    """Name and goal of each claim, and what reads it from the results, raising KeyError where they lack it."""
    yield "worst error of a kernel against float64", _tolerances(), _exactness
    yield (
        "least bandwidth of a kernel at large maps, over a copy's",
        f"at least {LEAST_SHARE:.2f}",
        _bandwidth,
    )
    for batch in (8, 32):
        yield (
            f"L_BN and its gradient over a plain pass: ResNet-50, float16, channels_last, batch {batch}",
            f"at most {MOST_FUSED}",
            lambda results, batch=batch: _fused(results, batch),
        )
    for batch in BATCHES:
        yield (
            f"guided over plain step: Stable Diffusion 2.1, 512 px, float16, batch {batch}",
            f"at most {MOST_GUIDED}",
            lambda results, batch=batch: _guided(results, batch),
        )
    for budget in ("12GB", "8GB", "6GB"):
        yield (
            f"largest error of a predicted peak, budget of {budget}, batch 8",
            f"at most {MOST_ERROR:.0%}",
            lambda results, budget=budget: _predicted(results, budget),
        )
    for batch, nbytes in LARGEST_PEAK.items():
        yield (
            f"memory of `generate`, batch {batch}",
            f"at most {_gb(nbytes)}",
            lambda results, batch=batch, nbytes=nbytes: _peak(results, batch, nbytes),
        )
    yield "memory of an update of a class token", f"at most {_gb(CAT_BYTES)}", _cat
    for batch in BATCHES:
        yield (
            f"images a minute, 30 steps, batch {batch}",
            "",
            lambda results, batch=batch: _images(results, batch),
        )


def _tolerances() -> str:
    return "at most " + ", ".join(f"{most:.0e} {dtype}" for dtype, most in TOLERANCE.items())


def _exactness(results: Results) -> Reading:
    found = results["check"]
    worst, wrong = found["worst_relative_error"], found["wrong"]
    shown = ", ".join(f"{error:.0e} {dtype}" for dtype, error in worst.items())
    if missing := found["cases"] - found["done"]:
        shown += f"; {missing} of {found['cases']} cases not reached"
    if wrong:
        shown += f"; {len(wrong)} cases wrong"
    held = not wrong and not missing and worst.keys() == TOLERANCE.keys()
    return shown, held and all(worst[dtype] <= most for dtype, most in TOLERANCE.items())


OURS = ("moments", "forward", "forward and backward")


def _bandwidth(results: Results) -> Reading:
    shares = [
        (row[op]["share"], f"{op}, {name}")
        for name, row in results["bandwidth"].items()
        if isinstance(row, dict) and row.get("large")
        for op in OURS
    ]
    if not shares:
        raise KeyError("large")
    share, where = min(shares)
    return f"{share:.2f} ({where}; least of {len(shares)})", share >= LEAST_SHARE


def _fused(results: Results, batch: int) -> Reading:
    row = results["networks"][f"ResNet-50, batch {batch}, channels_last"]
    fused, hook = row["fused"]["ratio"], row["hook"]["ratio"]
    return f"{fused:.2f} (hooks {hook:.2f})", fused <= MOST_FUSED


def _guided(results: Results, batch: int) -> Reading:
    ours, paper = (
        {
            way: rows["ratio"]
            for way in LAUNCHING
            if "ratio" in (rows := results["step"].get(f"step {method}, {way}, batch {batch}", {}))
        }
        for method in ("ours", "paper")
    )
    way, ratio = next(iter(ours.items()), (None, None))
    if ratio is None:
        raise KeyError(batch)
    others = [f"eager {ours['eager']:.2f}"] if way == "graph" and "eager" in ours else []
    others += [f"paper, {how} {value:.2f}" for how, value in paper.items()]
    return f"{ratio:.2f} {way}" + (
        f" ({', '.join(others)})" if others else ""
    ), ratio <= MOST_GUIDED


def _predicted(results: Results, budget: str) -> Reading:
    row = results["memory"][f"{budget}, batch 8"]
    peaks = [*row["generate"]["phases"].values(), row["generate"]["run"]]
    errors = [peak["error"] for peak in peaks]  # a phase that ran out of memory has none
    worst = max(errors, key=abs)
    return f"{worst:+.1%}", abs(worst) <= MOST_ERROR


def _peak(results: Results, batch: int, most: float) -> Reading:
    peak = results["memory"][f"{most / 1e9:g}GB, batch {batch}"]["generate"]["run"][
        "measured_bytes"
    ]
    return _gb(peak), peak <= most


def _cat(results: Results) -> Reading:
    update = results["memory"]["6GB, batch 8"]["learn"]["update"]
    seconds, peak = update["seconds_per_update"], update["measured_bytes"]
    return f"{_gb(peak)}, {seconds:.2f} s for {update['images']} images", peak <= CAT_BYTES


def _images(results: Results, batch: int) -> Reading:
    rows = results["step"]
    shown = []
    for method in ("plain", "ours"):
        rates = {
            way: rows[name]["images_per_minute"]
            for way in LAUNCHING
            if "images_per_minute" in rows.get(name := f"run {method}, {way}, batch {batch}", {})
        }
        if rates:
            shown.append(
                f"{method} " + ", ".join(f"{rate:.0f} {way}" for way, rate in rates.items())
            )
    if not shown:
        raise KeyError(batch)
    return "; ".join(shown), None


def _gb(nbytes: float) -> str:
    return f"{nbytes / 1e9:.3g} GB"


def claims_table(results: Results | None) -> str:
    """The claims as a table in Markdown, or a sentence where none was measured."""
    found = claims(results or {})
    if not results or all(claim.reached == NOT_MEASURED for claim in found):
        return "Not measured yet: `make gpu`, on a CUDA machine."
    lines = ["| claim | goal | reached | holds |", "|---|---|---|---|"]
    for claim in found:
        lines.append(f"| {claim.name} | {claim.goal} | {claim.reached} | {claim.verdict} |")
    return f"{'; '.join(provenance(results))}.\n\n" + "\n".join(lines)
