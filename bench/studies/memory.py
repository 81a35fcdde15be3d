"""The planner's error: predicted peaks of phases beside what tracked allocations of a real run say.

    python bench/studies memory [--full]

Reduced width: the embedded models, phase by phase and a whole run. --full adds one guided step of Stable Diffusion
2.1's own architecture at 512 px with ResNet-50, random weights, bfloat16, batch 1: about 5 GB and some minutes of a CPU
core. One without instructions for bfloat16 is done sooner with --dtype float32, which takes twice the memory. Both
numbers leave weights out; on CUDA the measured one is what the allocator reserved.
"""

import argparse
import json
import platform
import time
from pathlib import Path

import torch
from result_files import RESULTS, write_result

from engine.classifiers import Classifier, load_classifier
from engine.memory.case import Case
from engine.memory.layout import lay_out
from engine.memory.measure import measuring, peak_bytes
from engine.memory.phases import PHASES, count_case, run_case
from engine.memory.plan import plan
from engine.memory.skeleton import skeleton_classifier, skeleton_prior
from engine.memory.subject import Subject
from engine.priors import Prior, load_prior
from engine.runners.generate import generate
from engine.settings import Alignment, Sampling

LASTS = "minutes"
OUT = RESULTS / "memory.json"
STEP = [("guidance", False), ("sampling", False)]
"""The phases of one guided step."""


def compared(
    prior: Prior,
    classifier: Classifier,
    alignment: Alignment,
    images: int,
    cases: list[tuple[str, bool]],
) -> list[dict[str, object]]:
    """A row for each phase, with or without checkpointing: bytes beside the weights, and the error."""
    settings = {"alignment": alignment, "cfg": Sampling().cfg}
    real = Subject(prior=prior, classifier=classifier, **settings)
    hollow = Subject(
        prior=skeleton_prior(prior), classifier=skeleton_classifier(classifier), **settings
    )
    rows = []
    for phase, checkpoint in cases:
        case = Case(phase, images, images, checkpoint)
        if phase == "guidance":
            run_case(real, Case(phase, 1, 1))  # a classifier is watched once before it is fused
        began = time.monotonic()
        with measuring(prior.device) as measured:
            run_case(real, case)
        seconds = time.monotonic() - began
        rows.append(
            row_of(
                prior,
                classifier,
                case,
                alignment,
                count_case(hollow, case).peak_bytes,
                measured.peak_bytes,
            )
        )
        rows[-1]["seconds"] = round(seconds, 2)
        print(json.dumps(rows[-1]), flush=True)
    return rows


def step_of(name: str, px: int, dtype: str) -> list[dict[str, object]]:
    """The rows of one guided step of a prior at full width."""
    prior = load_prior(name, dtype=dtype).called_with(height=px, width=px)
    return compared(prior, load_classifier("arch:resnet50", dtype=dtype), Alignment(), 1, STEP)


def whole_run(prior: Prior, classifier: Classifier, images: int) -> dict[str, object]:
    """`generate` from its first prompt to its last image, beside the highest of its phases."""
    settings = {"alignment": Alignment(), "sampling": Sampling(steps=4, batch=images)}
    planned = plan(
        prior,
        classifier,
        "1TB" if prior.device.type == "cuda" else "auto",
        batch=images,
        **settings,
    )
    lay_out(planned.channels_last, prior, classifier)  # copies weights, which are counted apart
    networks = [*(part.module for part in prior.components()), classifier.network]
    weights = sum(v.nbytes for n in networks for v in (*n.parameters(), *n.buffers()))
    count = -(-images // len(classifier.labels))
    with measuring(prior.device) as measured:
        for _ in generate(classifier, prior, None, count, memory=planned, **settings):
            pass
    case = Case("generate", images, images)
    return row_of(
        prior, classifier, case, Alignment(), planned.generate_bytes - weights, measured.peak_bytes
    )


def row_of(
    prior: Prior,
    classifier: Classifier,
    case: Case,
    alignment: Alignment,
    predicted: int,
    measured: int,
) -> dict[str, object]:
    return {
        "prior": prior.name,
        "classifier": classifier.name,
        "dtype": str(prior.dtype).removeprefix("torch."),
        "decoder": alignment.decoder,
        "image_px": prior.image_size[0],
        "images": case.images,
        "phase": case.phase,
        "checkpoint": case.checkpoint,
        "predicted_bytes": predicted,
        "measured_bytes": measured,
        "error": round(predicted / measured - 1, 4),
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--full", action="store_true", help="also large priors at full width")
    parser.add_argument(
        "--priors",
        nargs="+",
        default=["arch:sd-2.1-base"],
        help="of --full, as arch:sdxl, which takes 8 GB (default: arch:sd-2.1-base)",
    )
    parser.add_argument("--px", type=int, default=512, help="size of their images (default: 512)")
    parser.add_argument("--dtype", choices=("bfloat16", "float32"), default="bfloat16")
    parser.add_argument("--out", type=Path, default=OUT)
    chosen = parser.parse_args()
    prior, classifier = load_prior("embedded"), load_classifier("embedded:cartoon")
    cases = [(phase, False) for phase in PHASES] + [("guidance", True), ("cat", True)]
    rows = compared(prior, classifier, Alignment(), 4, cases)
    rows += compared(prior, classifier, Alignment(), 14, cases)
    rows += compared(prior, classifier, Alignment.paper(), 14, [("guidance", False)])
    rows += [whole_run(prior, classifier, 14)]
    for name in chosen.priors if chosen.full else ():
        rows += step_of(name, chosen.px, chosen.dtype)
    report = {
        "settings": {"full": chosen.full, "px": chosen.px},
        "device": str(prior.device),
        "torch": torch.__version__,
        "machine": platform.machine(),
        "largest_error": max(abs(float(str(row["error"]))) for row in rows),
        "process_peak_bytes": peak_bytes(prior.device),
        "rows": rows,
    }
    write_result(chosen.out, report)
    print(f"largest error {report['largest_error']:.1%} in {len(rows)} phases: {chosen.out}")
