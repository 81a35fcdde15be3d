"""The method in one picture: plain prior, CAT, DAG and both, on the same seeds, for one embedded classifier.

Without class tokens, plain and DAG. The last row has guidance and the prompt that `tune` finds for the classifier.
"""

import json
import time
from dataclasses import asdict, replace
from pathlib import Path
from statistics import median
from typing import Any, cast

import torch
from torch import Tensor

from engine.classifiers import Classifier, load_classifier
from engine.datasets.contact_sheet import SHEET, contact_sheet, save_contact_sheet
from engine.datasets.curves import draw_curves
from engine.embedded.judge import load_judge
from engine.errors import ModelError
from engine.evaluation.shares import shares
from engine.events import SILENT, Events
from engine.files import make_folder, write_whole
from engine.guidance.domain import judged
from engine.guidance.objective import Objective
from engine.locks import locked_folder
from engine.memory.measure import peak_bytes
from engine.methods.drawing import IMAGES, Drawing
from engine.priors import Prior, Step, load_prior
from engine.prompts import PLAIN
from engine.runners.asking import asked
from engine.runners.learn_tokens import learn_tokens
from engine.runners.tune import PROMPTS, TUNING_SEED, least, try_prompt, with_prompt
from engine.settings import Alignment, Sampling
from engine.settings.sources import EMBEDDED
from engine.tokens.files import load_tokens
from engine.tokens.table import TokenTable
from engine.types import Sample

ROWS = ("plain", "CAT", "DAG", "CAT + DAG", "DAG, tuned prompt")
TRIED_IMAGES = 3
"""Of each class and prompt."""


def shipped_tokens(domain: str) -> Path:
    """The token file of an embedded classifier."""
    return EMBEDDED / "tokens" / f"{domain}.safetensors"


def demo(
    out: str | Path,
    domain: str = "cartoon",
    images_per_class: int = 2,
    learn: bool = False,
    seed: int = 0,
    events: Events = SILENT,
) -> dict[str, Any]:
    """Draw the rows, count what the judge says of them, and write sheet, curve and demo.json into `out`.

    Returns what demo.json holds. Raises OutputError where the folder cannot be written, or another process writes it.
    """
    folder = Path(out)
    prior = load_prior("embedded", dtype="auto")
    classifier = load_classifier(f"embedded:{domain}", device=prior.device, dtype="auto")
    asked(classifier, prior, None, images_per_class, seed=seed).prepare()
    make_folder(folder)
    with locked_folder(folder):
        return _written(folder, domain, images_per_class, learn, seed, prior, classifier, events)


def _written(
    folder: Path,
    domain: str,
    images_per_class: int,
    learn: bool,
    seed: int,
    prior: Prior,
    classifier: Classifier,
    events: Events,
) -> dict[str, Any]:
    """Draw and write everything into a folder that is locked; returns as `demo`."""
    judge = load_judge()
    began = time.monotonic()
    tokens: TokenTable | None
    if learn:
        tokens = learn_tokens(
            classifier,
            prior,
            seed=seed,
            out=folder / "tokens.safetensors",
            events=events,
        )
    else:
        shipped = _shipped(domain)
        tokens = None if shipped is None else load_tokens(shipped, prior, classifier)
    results, sheets, curves = {}, [], {}
    rows = [row for row in ROWS if tokens is not None or "CAT" not in row]
    trial = cast(
        Drawing,
        asked(
            classifier,
            prior,
            images_per_class=TRIED_IMAGES,
            seed=seed + TUNING_SEED,
            sampling=Sampling(),
        ).prepare(),
    )
    tried = len(PROMPTS) * TRIED_IMAGES + len(rows) * images_per_class
    with events.task(IMAGES, tried * len(classifier.labels)):
        prompt = least([try_prompt(with_prompt(trial, one), events) for one in PROMPTS]).prompt
        for row in rows:
            started = time.monotonic()
            wanted = asked(
                classifier,
                prior,
                images_per_class=images_per_class,
                seed=seed,
                method="ddis" if "DAG" in row else "plain",
                sampling=replace(Sampling(), prompt=prompt) if "prompt" in row else Sampling(),
                tokens=tokens if "CAT" in row else None,
            )
            samples, curve = _drawn(cast(Drawing, wanted.prepare()), events)
            seconds = time.monotonic() - started
            results[row] = {**asdict(shares(samples, judge, domain)), "seconds": round(seconds, 2)}
            sheets.append([one.image for one in sorted(samples, key=lambda one: one.key)])
            curves[row] = curve
    save_contact_sheet(
        folder / SHEET,
        contact_sheet(
            sheets,
            rows,
            [label for label in classifier.labels for _ in range(images_per_class)],
            title=f"From the {domain.replace('_', ' ')} classifier alone",
            caption=f"Same seeds in every row. The prompt is {PLAIN!r}; in the last row it is {prompt!r}, the one of "
            f"{len(PROMPTS)} that suits the classifier best.",
        ),
    )
    draw_curves(
        folder / "l_bn.png",
        curves,
        "L_BN of the predicted image",
        "L_BN (published, mean of images)",
    )
    report = {
        "domain": domain,
        "tokens": [] if tokens is None else list(tokens.labels),
        "prompt": prompt,
        "rows": results,
        "seconds": round(time.monotonic() - began, 2),
        "guidance_by_classifier": _classifier_part(classifier, torch.stack(sheets[-1])),
        "peak_bytes": peak_bytes(prior.device),
        "device": str(prior.device),
        "threads": torch.get_num_threads(),
        "contact_sheet": str(folder / SHEET),
        "curve": str(folder / "l_bn.png"),
    }
    write_whole(folder / "demo.json", json.dumps(report, indent=2).encode() + b"\n")
    return report


def _drawn(drawing: Drawing, events: Events) -> tuple[list[Sample], list[float]]:
    """A row's images, and the mean L_BN of the predicted images at each step."""
    sums = [0.0] * drawing.sampling.steps

    def watch(step: Step, clean: Tensor) -> None:
        images = drawing.prior.decode(clean)
        sums[step.index] += judged(drawing.classifier, images)[1].sum().item()

    samples = [image for group in drawing.groups() for image in drawing.make(group, events, watch)]
    return samples, [total / len(samples) for total in sums]


def _classifier_part(classifier: Classifier, images: Tensor, rounds: int = 15) -> dict[str, float]:
    """Measure L_BN and its gradient by images (N, 3, H, W), fused and by hooks in turns.

    Returns:
        fused_ms, hooks_ms: medians. speedup: their ratio, above 1 where the fused kernels are faster.
    """
    images = images.to(classifier.device)
    objectives = {
        name: Objective(classifier, Alignment(), fused=name == "fused")
        for name in ("fused", "hooks")
    }
    taken: dict[str, list[float]] = {name: [] for name in objectives}
    for _ in range(rounds):
        for name, objective in objectives.items():
            started = time.perf_counter()
            objective.value_and_grad(images)[0].cpu()  # waits for a GPU
            taken[name].append(1e3 * (time.perf_counter() - started))
    ms = {f"{name}_ms": round(median(times), 2) for name, times in taken.items()}
    return {**ms, "speedup": round(ms["hooks_ms"] / ms["fused_ms"], 3)}


def _shipped(domain: str) -> Path | None:
    """The token file of an embedded classifier; None where no token was found that helps it."""
    path = shipped_tokens(domain)
    if not path.parent.is_dir():
        raise ModelError(
            f"there are no shipped tokens in {path.parent}, expected them with the package's weights: "
            "install the package again, or set `learn` to learn them now."
        )
    return path if path.is_file() else None
