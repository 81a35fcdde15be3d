"""What the evaluator needs for 100,000 rows of features, and how near its values are to those of kept libraries.

python bench/studies evaluator [--rows 100000] [--neighbour-rows 10000] [--width 2048] [--parts stream neighbours ...]

Each part runs in a process of its own, whose peak memory is recorded; a part that is done is written at once.
"""

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path

import torch
from result_files import RESULTS, read_result, write_result
from torch import nn

from engine.datasets.run_record import versions
from engine.evaluation.features import FeatureFile, RunningMoments
from engine.evaluation.metrics import fid, gaussian, inception_score, kid
from engine.evaluation.neighbours import neighbours
from engine.memory.measure import peak_bytes
from studies.options import several

LASTS = "minutes"
RESULT = RESULTS / "evaluator.json"
PARTS = ("stream", "neighbours", "narrow_neighbours", "equal")
JUDGE_WIDTH = 128
"""Features that the embedded judge has. The time of neighbours grows with the features: with 2,048 of them, those of
100,000 rows would take hours."""
PART = 500
"""Rows that come at a time, as from a network."""


def fill(file: FeatureFile, rows: int, seed: int) -> RunningMoments:
    """Random features, a part at a time, to a file and to moments."""
    rng = torch.Generator().manual_seed(seed)
    width = file.shape[1]
    moments = RunningMoments(width)
    for start in range(0, rows, PART):
        part = torch.randn(min(PART, rows - start), width, generator=rng) + 0.01 * seed
        file.append(part)
        moments.add(part)
    return moments


def stream(rows: int, width: int) -> dict[str, float]:
    """FID and KID of two sets of `rows`, which are never held whole."""
    with FeatureFile(width) as samples, FeatureFile(width) as reference:
        seconds = {}
        start = time.perf_counter()
        moments = [
            fill(file, rows, seed).gaussian() for seed, file in enumerate((samples, reference))
        ]
        seconds["moments_s"] = time.perf_counter() - start
        start = time.perf_counter()
        distance = fid(*moments)
        seconds["fid_s"] = time.perf_counter() - start
        start = time.perf_counter()
        kernel = kid(samples, reference, subsets=10)
        seconds["kid_10_subsets_s"] = time.perf_counter() - start
    return {"rows": rows, "fid": distance, "kid": kernel.mean, **seconds}


def nearest(rows: int, width: int) -> dict[str, float]:
    """Precision, recall, density and coverage of two sets of `rows`."""
    with FeatureFile(width) as samples, FeatureFile(width) as reference:
        rng = torch.Generator().manual_seed(0)
        for file in (samples, reference):
            for start in range(0, rows, PART):
                file.append(torch.randn(min(PART, rows - start), width, generator=rng))
        start_s = time.perf_counter()
        found = neighbours(samples, reference)
        seconds = time.perf_counter() - start_s
    return {
        "rows": rows,
        "precision": found.precise.double().mean().item(),
        "neighbours_s": seconds,
    }


def handed(width: int) -> nn.Module:
    """A feature extractor for features that are there already."""
    extractor = nn.Identity()
    extractor.num_features = width
    return extractor


def equal(rows: int, width: int) -> dict[str, dict[str, float]]:
    """Our values beside those of torchmetrics and prdc on the same features, and the relative gap."""
    from prdc import compute_prdc
    from torchmetrics.image.fid import FrechetInceptionDistance
    from torchmetrics.image.inception import InceptionScore
    from torchmetrics.image.kid import KernelInceptionDistance

    rng = torch.Generator().manual_seed(1)
    mixing = torch.randn(width, width, generator=rng) / width**0.5
    reference = (torch.randn(rows, width, generator=rng) @ mixing + 1).double()
    samples = (0.9 * torch.randn(rows, width, generator=rng) @ mixing + 1.02).double()
    theirs = {}
    for name, metric in {
        "fid": FrechetInceptionDistance(handed(width)),
        "kid": KernelInceptionDistance(handed(width), subsets=20, subset_size=rows // 2),
    }.items():
        metric.set_dtype(torch.float64)
        metric.update(reference, real=True)
        metric.update(samples, real=False)
        torch.manual_seed(0)
        value = metric.compute()
        theirs[name] = (value[0] if name == "kid" else value).item()
    score = InceptionScore(handed(width), splits=1).set_dtype(torch.float64)
    score.update(samples)
    theirs["inception_score"] = score.compute()[0].item()
    theirs |= {
        name: float(value)
        for name, value in compute_prdc(reference.numpy(), samples.numpy(), 3).items()
    }
    near = neighbours(samples, reference, 3, 3)
    ours = {
        "fid": fid(gaussian(samples), gaussian(reference)),
        "kid": kid(samples, reference, 20, rows // 2).mean,
        "inception_score": inception_score(samples).item(),
        "precision": near.precise.double().mean().item(),
        "recall": near.recalled.double().mean().item(),
        "density": near.density.mean().item(),
        "coverage": near.covered.double().mean().item(),
    }
    return {
        name: {
            "ours": ours[name],
            "library": value,
            "relative_gap": abs(ours[name] - value) / abs(value),
        }
        for name, value in theirs.items()
    }


def run_part(part: str, chosen: argparse.Namespace) -> dict[str, object]:
    """One part in this process, with its peak memory."""
    measure, rows, width = {
        "stream": (stream, chosen.rows, chosen.width),
        "neighbours": (nearest, chosen.neighbour_rows, chosen.width),
        "narrow_neighbours": (nearest, chosen.rows, JUDGE_WIDTH),
        "equal": (equal, 2000, 64),
    }[part]
    values = measure(rows, width)
    found = {"width": width, "values": values, "peak_bytes": peak_bytes(torch.device("cpu"))}
    return found | {"threads": torch.get_num_threads(), "versions": versions()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument(
        "--rows",
        type=int,
        default=100_000,
        help="rows of each set for FID, KID and neighbours of few features",
    )
    parser.add_argument(
        "--neighbour-rows",
        type=int,
        default=10_000,
        help="rows of each set for neighbours of --width features",
    )
    parser.add_argument("--width", type=int, default=2048, help="features of a row")
    several(parser, "--parts", PARTS)
    parser.add_argument(
        "--here", action="store_true", help="run the one part in this process and print it"
    )
    parser.add_argument("--out", type=Path, default=RESULT)
    chosen = parser.parse_args()
    if chosen.here:
        print(json.dumps(run_part(chosen.parts[0], chosen)))
        return
    result = read_result(chosen.out)
    for part in chosen.parts:
        sizes = ["--rows", str(chosen.rows), "--neighbour-rows", str(chosen.neighbour_rows)]
        command = [
            sys.executable,
            str(Path(__file__).parent),
            "evaluator",
            "--here",
            "--parts",
            part,
            "--width",
            str(chosen.width),
            *sizes,
        ]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        result[part] = json.loads(done.stdout.strip().splitlines()[-1])
        write_result(chosen.out, result)
        print(
            part,
            f"{result[part]['peak_bytes'] / 2**30:.2f} GiB",
            result[part]["values"],
            flush=True,
        )
