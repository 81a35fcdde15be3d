"""What each family of priors takes: bytes by network and phase, compute, and whether a guided image fits on one card.

    python bench/studies family_plans                        every family; in NF4 where bfloat16 does not fit
    python bench/studies family_plans --only sdxl z-image    others' rows stay in the result

Counted from published configs, without a weight: one image of the prior's own size with a ResNet-50, for a GPU of
--memory. It needs no quiet machine, and half a minute to two of a CPU core for each family.
"""

import argparse
from collections.abc import Sequence
from dataclasses import asdict
from inspect import signature
from pathlib import Path
from typing import Any, NamedTuple

import torch
from result_files import RESULTS

from engine import load_classifier, load_prior
from engine.memory.budget import BudgetError
from engine.memory.case import Case
from engine.memory.costs import Costs
from engine.memory.plan import Plan, plan
from engine.memory.subject import subject_of
from engine.priors import Prior
from engine.settings import Alignment, Sampling
from studies.options import several
from studies.rows import Rows

LASTS = "minutes"
RESULT = RESULTS / "family_plans.json"
CLASSIFIER = "arch:resnet50"
DTYPE = "bfloat16"
CUDA = torch.device("cuda")


class Family(NamedTuple):
    """How a family is run.

    licence: of the published weights. cfg: 1 for one whose guidance is distilled into the network. steps: of an image;
    0 for the default of the pipeline's call, which one that is distilled for few steps does not have.
    """

    licence: str
    cfg: float = Sampling().cfg
    steps: int = 0


QUANTISE = ("none", "nf4")
"""Ways that are tried, the more exact first."""
APACHE = Family("Apache-2.0")
FEW_STEPS = Family("Apache-2.0", cfg=1, steps=4)
STABILITY = Family("Stability AI Community")
RAIL = Family("OpenRAIL++-M")
FAMILIES = {
    "sd-1.5": Family("CreativeML OpenRAIL-M"),
    "sd-2.1": RAIL,
    "sdxl": RAIL,
    "sd-3.5-medium": STABILITY,
    "sd-3.5-large": STABILITY,
    "pixart-alpha": RAIL,
    "pixart-sigma": RAIL,
    "sana-1.6b": Family("NVIDIA, NSCL v2-custom; Gemma's terms"),
    "flux.1-dev": Family("FLUX.1 dev, non-commercial", cfg=1),
    "flux.1-schnell": FEW_STEPS,
    "chroma": APACHE,
    "flux.2-klein-4b": FEW_STEPS,
    "flux.2-klein-9b": Family("FLUX, non-commercial", cfg=1, steps=4),
    "z-image": APACHE,
    "lumina-2": Family("Apache-2.0; Gemma's terms"),
    "auraflow": APACHE,
    "qwen-image": APACHE,
}
"""By the name of the architecture."""


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    several(parser, "--only", FAMILIES)
    parser.add_argument("--memory", default="12GB", help="of the GPU (default: 12GB)")
    parser.add_argument("--out", type=Path, default=RESULT)
    chosen = parser.parse_args(arguments)
    settings = {"memory": chosen.memory, "classifier": CLASSIFIER, "dtype": DTYPE, "images": 1}
    rows = Rows(chosen.out, settings | {"alignment": asdict(Alignment())}, CUDA, names=FAMILIES)
    for name in chosen.only:
        row = row_of(name, FAMILIES[name], chosen.memory)
        print(name, row["quantise"], "fits" if row["fits"] else row["why"], flush=True)
        rows.add(name, row)


def row_of(name: str, family: Family, memory: str) -> dict[str, Any]:
    """The first way that fits, or the last with the reason why it does not."""
    row: dict[str, Any] = {}
    for quantise in QUANTISE:
        prior = load_prior(f"arch:{name}", device="meta", dtype=DTYPE, quantise=quantise)
        row = {"licence": family.licence, "quantise": quantise, "cfg": family.cfg, "fits": False}
        try:
            planned = plan(
                prior,
                load_classifier(CLASSIFIER, device="meta", dtype=DTYPE),
                memory,
                batch=1,
                sampling=Sampling(cfg=family.cfg),
                device=CUDA,
                tokens=False,
            )
        except BudgetError as error:
            row["why"] = str(error)
            continue
        return row | {"fits": True} | facts(prior, planned) | compute(prior, family)
    return row


def facts(prior: Prior, planned: Plan) -> dict[str, Any]:
    """What a plan says."""
    kept = ("image_px", "decoder", "decode_px", "checkpoint", "offload", "tile")
    kept += ("micro_batch", "peak_bytes", "weights_bytes", "smallest_bytes")
    found = planned.to_json()
    return {
        **{key: found[key] for key in kept},
        "components": {part.name: part.role for part in prior.components()},
    }


def compute(prior: Prior, family: Family) -> dict[str, Any]:
    """The FLOPs of a step and of a whole image, without guidance and with it."""
    steps, alignment = family.steps or default_steps(prior), Alignment()
    subject = subject_of(prior, CLASSIFIER, alignment, Sampling(cfg=family.cfg), None, CUDA, None)
    costs = Costs(subject, CUDA, 1, steps)
    flops = {phase: costs.counted(Case(phase, 1, 1)).flops for phase in costs.phases}
    moves = alignment.moves * flops["guidance"]
    plain = flops["text"] + steps * flops["sampling"] + flops["decode"]
    return {
        "step_flops": flops["sampling"],
        "guided_over_plain_flops": 1 + moves / flops["sampling"],
        "steps": steps,
        "image_flops": plain,
        "guided_image_flops": plain + guided_steps(alignment, steps) * moves,
    }


def default_steps(prior: Prior) -> int:
    """The number of steps that a pipeline's call takes by itself."""
    number: int = signature(type(prior.pipe).__call__).parameters["num_inference_steps"].default
    return number


def guided_steps(alignment: Alignment, steps: int) -> int:
    """How many steps of a run are guided."""
    return sum(alignment.stride_at(index, steps) > 0 for index in range(steps))


if __name__ == "__main__":
    main()
