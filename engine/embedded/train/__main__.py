"""The recipe of the embedded models.

    python -m engine.embedded.train perception  --data FOLDER --work FOLDER
    python -m engine.embedded.train autoencoder ...      (by squared error)
    python -m engine.embedded.train finish      ...      (by likeness; needs perception and the autoencoder)
    python -m engine.embedded.train prior       ...      (needs the autoencoder)
    python -m engine.embedded.train decoder     ...      (the autoencoder's decoder alone, its latents stay)
    python -m engine.embedded.train tiny        ...      (needs the autoencoder)
    python -m engine.embedded.train judge | classifiers | classifiers-convnext ...
    python -m engine.embedded.train pack        ...      (writes the weights that ship)
    python -m engine.embedded.train shed --out FOLDER ...  (copies the checkpoints, small enough to hand on)
    python -m engine.embedded.train all --seconds 240 --device cuda --out FOLDER ...

Each stage resumes from its checkpoint in the work folder. `--seconds` is a budget of time: a run cools down and ends
within it; `all` splits it over the stages and packs what they end with. `--data` holds pacs64-{prior,train}.parquet;
if it holds pacs64-test.parquet, the cards tell the accuracies on it. With `--cifar` it holds cifar10-train.parquet,
and the prior and its autoencoder are trained on the first half of each of its classes.
`--start-from FOLDER` goes on from a packed prior: `finish` and `tiny` from its autoencoder, `prior` from its networks
as far as they fit; so does `pack --models prior --start-from`. `all --start-from` leaves the autoencoder's first stage
out. On a GPU every batch is eight times as large.
On several CPU cores, processes can share each batch of all stages but the autoencoder's and `tiny`:
`torchrun --nproc-per-node 2 -m engine.embedded.train prior ...`. With `--local-steps 8` they average their weights
after every eighth step instead of sharing all gradients, which is faster.
"""

import argparse
import os
import sys
import time
from dataclasses import replace
from pathlib import Path

import torch
import torch.distributed as dist

from engine.embedded.train import shipping
from engine.embedded.train.loop import Recipe
from engine.embedded.train.machine import Machine
from engine.embedded.train.stages import GPU_WIDTH, RECIPES, SHARES, STAGES, Job, wider
from engine.errors import ConfigError, EngineError
from engine.networks.frozen import multiplies_bfloat16
from engine.settings.sources import EMBEDDED

PACKING = 0.12
"""The share of `all`'s budget that is left for shipping."""


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m engine.embedded.train", description=__doc__.split("\n")[0]
    )
    parser.add_argument("stage", choices=[*STAGES, "pack", "shed", "all"])
    parser.add_argument("--data", type=Path, required=True, help="folder with the parquet files")
    parser.add_argument("--work", type=Path, required=True, help="folder for checkpoints and logs")
    parser.add_argument("--out", type=Path, default=EMBEDDED, help="where pack writes the weights")
    parser.add_argument(
        "--resolution", type=int, default=64, help="side of the images in pixels, a multiple of 8"
    )
    parser.add_argument("--steps", type=int, help="number of steps, instead of the recipe's")
    parser.add_argument("--seconds", type=float, help="budget of time, instead of steps")
    parser.add_argument("--batch", type=int, help="samples a step, instead of the recipe's")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument(
        "--local-steps",
        type=int,
        default=1,
        help="with several processes: steps that each takes by itself before their weights are averaged",
    )
    parser.add_argument("--compile", action="store_true", help="compile the networks that learn")
    parser.add_argument("--start-from", type=Path, help="folder of a packed prior to train further")
    parser.add_argument("--cifar", action="store_true", help="CIFAR-10's prior in place of PACS's")
    parser.add_argument(
        "--models", nargs="+", choices=shipping.PACKED, default=shipping.PACKED, help="what to pack"
    )
    parser.add_argument(
        "--bits", type=int, choices=(8, 16), default=16, help="of the weights that shed copies"
    )
    parser.add_argument("--seed", type=int, help="instead of the recipe's")
    parser.add_argument(
        "--twice", nargs="+", default=[], help="domains that the prior is shown twice as often"
    )
    chosen = parser.parse_args(arguments)
    try:
        run(chosen)
    except EngineError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def run(chosen: argparse.Namespace) -> None:
    if chosen.resolution < 16 or chosen.resolution % 8:
        raise ConfigError(
            f"resolution is {chosen.resolution}, expected a multiple of 8 from 16 up: the networks halve it "
            "three times. Round it."
        )
    if chosen.device.startswith("cuda") and not torch.cuda.is_available():
        raise ConfigError(
            f"device is {chosen.device!r}, expected one that is here: torch finds no CUDA device. Use --device cpu."
        )
    if chosen.twice and chosen.stage not in ("prior", "pack", "all"):
        raise ConfigError(
            f"--twice came with the stage {chosen.stage!r}, expected 'prior': no other is shown some domains more "
            "often. Leave it out."
        )
    if chosen.stage == "shed" and chosen.out in (EMBEDDED, chosen.work):
        raise ConfigError(
            f"checkpoints are to be copied to {chosen.out}, expected a folder of their own: name one with --out."
        )
    if chosen.stage == "all" and not chosen.seconds:
        raise ConfigError(
            "`all` was asked for without a budget, expected --seconds: it splits the time over the stages. Give "
            "the time."
        )
    torch.manual_seed(chosen.seed or 0)
    job = Job(
        data=chosen.data,
        work=chosen.work,
        resolution=chosen.resolution,
        recipes={stage: recipe(stage, chosen) for stage in RECIPES},
        start=chosen.start_from,
        cifar=chosen.cifar,
        machine=Machine(
            device=chosen.device,
            seconds=chosen.seconds,
            compiled=chosen.compile,
            bfloat16=chosen.device.startswith("cuda") or multiplies_bfloat16(),
            processes=int(os.environ.get("WORLD_SIZE", 1)),
            rank=int(os.environ.get("RANK", 0)),
            local_steps=chosen.local_steps,
        ),
    )
    if job.machine.processes > 1:
        dist.init_process_group("gloo")
    if chosen.stage == "all":
        run_all(job, chosen.out, chosen.models)
    elif chosen.stage == "shed":
        shipping.shed(chosen.work, chosen.out, chosen.bits)
    elif chosen.stage == "pack":
        shipping.pack_all(job, chosen.out, chosen.models)
    else:
        STAGES[chosen.stage](job)
    if job.machine.processes > 1:
        dist.destroy_process_group()


def recipe(stage: str, chosen: argparse.Namespace) -> Recipe:
    """The recipe of a stage as the command changes it."""
    own = RECIPES[stage]
    if chosen.device.startswith("cuda"):
        own = wider(own, GPU_WIDTH)
    if chosen.seed is not None:
        own = replace(own, seed=chosen.seed)
    if stage == "prior":
        own = replace(own, twice=tuple(chosen.twice))
    if chosen.stage == stage and chosen.batch:
        own = replace(own, batch=chosen.batch)
    if chosen.stage == stage and chosen.steps:
        own = replace(own, steps=chosen.steps)
    elif chosen.seconds:  # the clock alone ends it
        own = replace(own, steps=10**9)
    return own


def run_all(job: Job, out: Path, models: tuple[str, ...]) -> None:
    """Every stage that has weights to make, each for its share of what is left of the budget; then pack."""
    assert job.machine.seconds is not None, "the command asks for a budget"
    end = time.monotonic() + job.machine.seconds * (1 - PACKING)
    stages = [stage for stage in SHARES if stage != "autoencoder" or job.start is None]
    if job.cifar:
        stages = [stage for stage in stages if "classifiers" not in stage and stage != "judge"]
        models = tuple(model for model in models if model in ("prior", "tiny"))
    for number, stage in enumerate(stages):
        left = max(1.0, end - time.monotonic())
        seconds = left * SHARES[stage] / sum(SHARES[later] for later in stages[number:])
        STAGES[stage](replace(job, machine=replace(job.machine, seconds=seconds)))
    shipping.pack_all(job, out, models)


if __name__ == "__main__":
    sys.exit(main())
