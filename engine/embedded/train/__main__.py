"""The recipe of the embedded models.

    python -m engine.embedded.train autoencoder --data FOLDER --work FOLDER
    python -m engine.embedded.train tiny        ...      (needs the autoencoder)
    python -m engine.embedded.train prior       ...      (needs the autoencoder)
    python -m engine.embedded.train classifiers ...
    python -m engine.embedded.train judge       ...
    python -m engine.embedded.train pack        ...      (writes the weights that ship)

Each stage resumes from its checkpoint in the work folder. `--data` holds pacs64-{prior,train}.parquet; if it holds
pacs64-test.parquet, the cards tell the accuracies on it.
`prior --start-from FOLDER` goes on from a packed prior and its autoencoder; so does `pack --models prior --start-from`.
`tiny --start-from FOLDER` takes the autoencoder of a packed prior.
"""

import argparse
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch
from diffusers import AutoencoderTiny

from engine.embedded.train import autoencoder, classifiers, pack, prior, tiny_decoder
from engine.embedded.train.data import load_pacs
from engine.embedded.train.loop import Recipe
from engine.errors import ConfigError, EngineError
from engine.models.tiny_sources import TINY

STAGES = {
    "autoencoder": autoencoder.RECIPE,
    "tiny": tiny_decoder.RECIPE,
    "prior": prior.RECIPE,
    "classifiers": classifiers.BASE_RECIPE,
    "judge": classifiers.JUDGE_RECIPE,
}
PACKED = ("prior", "tiny", "classifiers", "judge")
WEIGHTS = Path(__file__).parent.parent / "weights"


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m engine.embedded.train", description=__doc__.split("\n")[0]
    )
    parser.add_argument("stage", choices=[*STAGES, "pack"])
    parser.add_argument(
        "--data", type=Path, required=True, help="folder with the PACS parquet files"
    )
    parser.add_argument("--work", type=Path, required=True, help="folder for checkpoints and logs")
    parser.add_argument("--out", type=Path, default=WEIGHTS, help="where pack writes the weights")
    parser.add_argument(
        "--resolution", type=int, default=32, help="side of the images in pixels, a multiple of 8"
    )
    parser.add_argument("--steps", type=int, help="number of steps, instead of the recipe's")
    parser.add_argument("--start-from", type=Path, help="folder of a packed prior to train further")
    parser.add_argument(
        "--models", nargs="+", choices=PACKED, default=PACKED, help="what pack writes"
    )
    parser.add_argument("--seed", type=int, help="instead of the recipe's")
    chosen = parser.parse_args(arguments)
    try:
        if chosen.resolution < 16 or chosen.resolution % 8:
            raise ConfigError(
                f"resolution is {chosen.resolution}, expected a multiple of 8 from 16 up: the networks halve it thrice."
            )
        run(chosen)
    except EngineError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def run(chosen: argparse.Namespace) -> None:
    work, data, side = chosen.work, chosen.data, chosen.resolution

    def recipe(stage: str) -> Recipe:
        own = prior.CONTINUED if stage == "prior" and chosen.start_from else STAGES[stage]
        own = own if chosen.seed is None else replace(own, seed=chosen.seed)
        return replace(own, steps=chosen.steps) if chosen.steps and chosen.stage == stage else own

    torch.manual_seed(chosen.seed or 0)
    if chosen.stage == "pack":
        pack_all(chosen, recipe)
    elif chosen.stage == "autoencoder":
        autoencoder.train_autoencoder(
            load_pacs(data / "pacs64-prior.parquet"),
            side,
            recipe("autoencoder"),
            work / "autoencoder",
        )
    elif chosen.stage == "tiny":
        images = load_pacs(data / "pacs64-prior.parquet")
        tiny_decoder.train_tiny_decoder(
            images, autoencoder_of(chosen), side, recipe("tiny"), work / "tiny"
        )
    elif chosen.stage == "prior":
        images = load_pacs(data / "pacs64-prior.parquet")
        vae = autoencoder_of(chosen)
        prior.train_prior(images, vae, side, recipe("prior"), work / "prior", chosen.start_from)
    elif chosen.stage == "classifiers":
        images = load_pacs(data / "pacs64-train.parquet")
        classifiers.train_domain_classifiers(
            images, side, recipe("classifiers"), work / "classifiers"
        )
    else:
        images = load_pacs(data / "pacs64-train.parquet") + load_pacs(data / "pacs64-prior.parquet")
        classifiers.train_judge(images, side, recipe("judge"), work / "judge")


def autoencoder_of(chosen: argparse.Namespace) -> AutoencoderTiny:
    """The autoencoder of the prior to start from, else that of the work folder, with its averaged weights."""
    if chosen.start_from is not None:
        return autoencoder_in(chosen.start_from)
    work = chosen.work
    checkpoint = work / "autoencoder" / "state.pt"
    if not checkpoint.is_file():
        raise ConfigError(
            f"there is no {checkpoint}, expected the trained autoencoder: run its stage first."
        )
    model = autoencoder.build()
    model.load_state_dict(torch.load(checkpoint, weights_only=True)["average"])
    return model.eval()


def autoencoder_in(prior: Path) -> AutoencoderTiny:
    """The autoencoder of a packed prior."""
    if not (prior / "vae").is_dir():
        raise ConfigError(
            f"there is no {prior / 'vae'}, expected a prior in diffusers format: name a folder that `pack` wrote."
        )
    return AutoencoderTiny.from_pretrained(prior / "vae", torch_dtype=torch.float32).eval()


def as_done(recipe: Recipe, folder: Path) -> Recipe:
    """The recipe with the number of steps that its checkpoint has seen: packing trains nothing."""
    checkpoint = folder / "state.pt"
    if not checkpoint.is_file():
        raise ConfigError(
            f"there is no {checkpoint}, expected a trained model to pack: run its stage first, or name what is there "
            "with --models."
        )
    return replace(recipe, steps=torch.load(checkpoint, weights_only=True)["step"])


def pack_all(chosen: argparse.Namespace, recipe: Callable[[str], Recipe]) -> None:
    """Write the chosen models' weights from the finished checkpoints of the work folder."""
    work, side = chosen.work, chosen.resolution
    of_prior, of_train = (
        load_pacs(chosen.data / f"pacs64-{part}.parquet") for part in ("prior", "train")
    )
    if "prior" in chosen.models:
        vae, own = autoencoder_of(chosen), as_done(recipe("prior"), work / "prior")
        networks = prior.train_prior(of_prior, vae, side, own, work / "prior", chosen.start_from)
        pack.pack_prior(vae, networks, of_prior, side, own, chosen.out / "prior", chosen.start_from)
    if "tiny" in chosen.models:
        packed = (
            chosen.start_from or chosen.out / "prior"
        )  # with the scaling factor that training the prior set
        vae = autoencoder_in(packed)
        own = as_done(recipe("tiny"), work / "tiny")
        narrow = tiny_decoder.train_tiny_decoder(of_prior, vae, side, own, work / "tiny")
        pack.pack_tiny(narrow, vae, of_prior, side, own, chosen.out / "prior" / TINY)
    test = chosen.data / "pacs64-test.parquet"
    of_test = {"test images": load_pacs(test)} if test.is_file() else {}
    if "classifiers" in chosen.models:
        parts = {"training images": of_train} | of_test
        own = as_done(recipe("classifiers"), work / "classifiers" / "base")
        models = classifiers.train_domain_classifiers(of_train, side, own, work / "classifiers")
        for domain, model in models.items():
            pack.pack_classifier(
                model, domain, side, own, chosen.out / f"classifier-{domain}", parts
            )
    if "judge" in chosen.models:
        own = as_done(recipe("judge"), work / "judge")
        seen = of_train + of_prior
        judge = classifiers.train_judge(seen, side, own, work / "judge")
        parts = {"training images": seen} | of_test
        pack.pack_judge(judge, of_train, side, own, chosen.out / "judge", parts)


if __name__ == "__main__":
    sys.exit(main())
