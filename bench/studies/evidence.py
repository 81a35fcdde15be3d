"""Every method's images through one evaluator: shares by judge and teacher, FID, KID, precision and recall, compute.

python bench/studies evidence [--methods plain CAT DAG both tuned ...] [--domains ...] [--seeds 3] [--images 17]

A row is a method with the classifier of a domain: for each seed a data set folder below --work, of 7 classes x
--images. Prompts are neutral ("a dog"), so that the domain comes from the classifier alone; those of `tuned` are what
tune.py found by the classifier alone, and it is to be run first. A run that is cut goes on where it stopped, and
several with other --methods or --domains may run at once. Tables: `make tables`.
"""

import argparse
import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any

import torch
from methods import guided
from result_files import RESULTS, read_result

from engine.apps.demo import shipped_tokens
from engine.classifiers import Classifier, load_classifier
from engine.datasets.dataset import load_sample, open_dataset, read_dataset
from engine.datasets.run_record import read_run
from engine.embedded.captions import STYLED
from engine.embedded.judge import Judge, load_judge
from engine.evaluation.evaluate import evaluate
from engine.evaluation.extractors import load_extractor
from engine.evaluation.shares import shares
from engine.guidance.domain import judged
from engine.memory.count import counting
from engine.methods.compute import flops_per_image as baseline_flops
from engine.priors import Prior, load_prior
from engine.runners.asking import asked
from engine.runners.generate import generate
from engine.runners.learn_tokens import learn_tokens
from engine.runners.local import made_by
from engine.runners.tune import PROMPTS
from engine.settings import Alignment, Evaluation, Sampling, TokenLearning
from engine.settings.inversion import (
    DeepInversion,
    InversionSettings,
    NaturalInversion,
    PlugInInversion,
)
from engine.tokens.files import load_tokens
from engine.types import Sample
from studies.options import several
from studies.rows import DTYPE, alone, rows_by_domain

LASTS = "5 hours"
FIRST_SEED = 900
"""No token was learned on images of these seeds. Chosen with them in view: nine tenths of the schedule instead of all,
among the variants of guidance_study.py, which has seeds of its own; words as the start of tokens, and the rules
of engine/runners/start_word.py and learn_shipped_tokens.py."""
IMAGES = 17
"""Of each class and seed."""
RESULT = RESULTS / "evidence.json"
WORK = Path("out/evidence")
OWN_TOKENS = Path("out/own_tokens")
METRICS = Evaluation(resamples=100)


@dataclass(frozen=True)
class Method:
    """How images are made.

    names_domain: the prompt does, which a user without data may not know. tuned: the prompt is the one that tune.py
    found for the classifier.
    """

    alignment: Alignment | None
    tokens: bool = False
    sampling: Sampling = Sampling()
    baseline: InversionSettings | None = None
    names_domain: bool = False
    tuned: bool = False

    @property
    def guidance(self) -> dict[str, Any]:
        """How latents are guided and drawn, as results keep it."""
        return {
            "alignment": self.alignment and asdict(self.alignment),
            "sampling": asdict(self.sampling),
        }

    def sampling_for(self, domain: str) -> Sampling:
        if self.tuned:
            return replace(self.sampling, prompt=tuned_prompt(domain))
        if not self.names_domain:
            return self.sampling
        return replace(self.sampling, prompt=STYLED[domain][0].replace("{noun}", "{class}"))

    def token_file(self, domain: str, prior: Prior) -> Path | None:
        """The tokens that ship, where they are used."""
        return shipped_tokens(domain) if self.tokens else None


@dataclass(frozen=True)
class OwnTokens(Method):
    """Tokens are learned for the method, in plain images, before it draws; they are kept for its next run."""

    learning: TokenLearning = TokenLearning.paper()

    def token_file(self, domain: str, prior: Prior) -> Path:
        return OWN_TOKENS / prior.fingerprint / f"{domain}.safetensors"

    def learn(self, domain: str, classifier: Classifier, prior: Prior) -> None:
        with alone(OWN_TOKENS / prior.fingerprint):
            learn_tokens(
                classifier,
                prior,
                learning=self.learning,
                sampling=self.sampling,
                method="plain",
                out=self.token_file(domain, prior),
            )


def tuned_prompt(domain: str) -> str:
    """The prompt that tune.py found for the classifier of a domain."""
    rows = read_result(RESULTS / "tune.json").get("rows", {})
    found = {
        what: row["score"]
        for name, row in rows.items()
        if (what := name.removeprefix(f"{domain}/")) in PROMPTS
    }
    if len(found) < len(PROMPTS):
        raise SystemExit(f"no prompt was found for {domain} yet: run `python bench/studies tune`")
    return min(found, key=lambda prompt: found[prompt])


METHODS = {
    "plain": Method(None),
    "CAT": Method(None, tokens=True),
    "DAG": Method(Alignment()),
    "both": Method(Alignment(), tokens=True),
    "plain, domain in the prompt": Method(None, names_domain=True),
    "tuned": Method(Alignment(), tuned=True),
    "tuned, fast": Method(Alignment(), tuned=True, sampling=Sampling.fast()),
    "tuned, best": Method(Alignment.best(), tuned=True, sampling=Sampling.fast()),
    "fast": Method(Alignment(), sampling=Sampling.fast()),
    "paper DAG": Method(Alignment.paper(), sampling=Sampling.paper()),
    "paper DDIS": Method(Alignment.paper(), tokens=True, sampling=Sampling.paper()),
    "paper DDIS, step of 0.05, own tokens": OwnTokens(
        Alignment.paper(0.05), tokens=True, sampling=Sampling.paper()
    ),
    "DeepInversion": Method(None, baseline=DeepInversion()),
    "DeepInversion, 2,000 iterations": Method(None, baseline=DeepInversion(iterations=2000)),
    "Plug-In Inversion": Method(None, baseline=PlugInInversion()),
    "NaturalInversion": Method(None, baseline=NaturalInversion()),
}


def seen_by(classifier: Classifier, samples: Iterable[Sample]) -> list[Sample]:
    """Samples with another teacher's logits and L_BN."""
    samples = list(samples)
    images = torch.stack([sample.image for sample in samples]).to(classifier.device)
    logits, distances = (found.cpu() for found in judged(classifier, images))
    confidence = logits.softmax(1)
    return [
        replace(
            sample,
            logits=logits[row],
            l_bn=distances[row].item(),
            confidence=confidence[row, sample.key.class_index].item(),
        )
        for row, sample in enumerate(samples)
    ]


def name_of(how: Method) -> str:
    return next(name for name, other in METHODS.items() if other == how)


def folder_of(
    method: str, domain: str, classifier: Classifier, prior: Prior, work: Path
) -> tuple[Method, Path]:
    """How a row's images are made, and the folder of its seeds. Where no token helps a classifier, and none ships, they
    are those of the method without tokens."""
    how = METHODS[method]
    tokens = how.token_file(domain, prior)
    if tokens and not tokens.exists():
        how, tokens = replace(how, tokens=False), None
        method = name_of(how)
    root = work / prior.fingerprint / domain / method.replace(" ", "_")
    if tokens:
        root = root / load_tokens(tokens, prior, classifier).fingerprint
    return how, root


def shared_folder(how: Method, prior: Prior, work: Path, seed: int) -> Path:
    """Where images are kept that are the same for all classifiers: see `draw`."""
    return work / prior.fingerprint / name_of(how).replace(" ", "_") / str(seed)


def images_of(folder: Path) -> list[Sample]:
    return [load_sample(file, row) for file, row in read_dataset(folder)]


def draw(
    method: Method,
    classifier: Classifier,
    prior: Prior,
    domain: str,
    images: int,
    seed: int,
    folder: Path,
    plain: Path,
) -> None:
    """One seed's folder, finished; one that is finished is left alone. plain: where such a method's images are
    kept that neither guidance nor tokens touch: they are the same whatever the classifier, so they are drawn once."""
    if method.baseline is not None:
        for _ in generate(
            classifier, images_per_class=images, seed=seed, out=folder, method=method.baseline
        ):
            pass
        return
    arguments = {
        "prior": prior,
        "images_per_class": images,
        "tokens": method.token_file(domain, prior),
        "sampling": method.sampling_for(domain),
        "seed": seed,
        **guided(method.alignment),
    }
    if method.alignment is not None or method.tokens:
        for _ in generate(classifier, **arguments, out=folder):
            pass
        return
    plain = plain.parent / domain / plain.name if method.names_domain else plain
    with alone(plain.parent):
        for _ in generate("embedded:photo", **arguments, out=plain):
            pass
    prepared = asked(classifier, **arguments).prepare()
    with open_dataset(folder, made_by(prepared), prepared.labels) as writer:
        for sample in seen_by(classifier, images_of(plain)):
            writer.add(sample)
        writer.finish({"seconds": read_run(plain).measured["seconds"]})


def evaluated(
    folders: Path | list[Path], domain: str, settings: Evaluation = METRICS
) -> dict[str, Any]:
    """What the evaluator says of images beside the real ones of a domain, by the judge's features."""
    found = evaluate(folders, "judge", load_extractor("judge"), domain=domain, settings=settings)
    return {key: found[key] for key in ("images", "reference_images", "metrics")}


def by_class(samples: list[Sample], judge: Judge, domain: str) -> dict[str, dict[str, float]]:
    """Shares of each class's images."""
    return {
        label: asdict(
            shares([sample for sample in samples if sample.label == label], judge, domain)
        )
        for label in judge.classes
    }


def flops_per_image(method: Method, classifier: Classifier, prior: Prior, domain: str) -> float:
    """Counted over one image of each class, sampled together."""
    if method.baseline is not None:
        return baseline_flops(method.baseline, classifier)
    tokens = method.token_file(domain, prior)
    with counting() as count:
        number = sum(
            1
            for _ in generate(
                classifier,
                prior,
                images_per_class=1,
                tokens=tokens,
                sampling=method.sampling_for(domain),
                **guided(method.alignment),
            )
        )
    return count.flops / number


def seconds_per_image(folders: list[Path]) -> float:
    """What the runs that made the folders measured: of use where the machine was quiet, and they were not cut."""
    runs = [read_run(folder).measured for folder in folders]
    return sum(run["seconds"] for run in runs) / sum(run["images"] for run in runs)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--images", type=int, default=IMAGES, help="images of each class and seed")
    parser.add_argument("--seeds", type=int, default=3)
    several(parser, "--methods", METHODS)
    several(parser, "--domains", load_judge().domains)
    parser.add_argument(
        "--work", type=Path, default=WORK, help="where the data set folders are kept"
    )
    parser.add_argument("--out", type=Path, default=RESULT)
    chosen = parser.parse_args()
    prior, judge = load_prior("embedded", dtype=DTYPE), load_judge()
    settings = {"images_per_class": chosen.images, "first_seed": FIRST_SEED}
    result = rows_by_domain(chosen.out, prior, settings, METHODS, judge.domains)
    if chosen.out == RESULT and chosen.images < result.others.get("images_per_class", 0):
        parser.error(f"{RESULT} has more images a class: name another --out for a trial")
    for method, domain in product(chosen.methods, chosen.domains):
        how = METHODS[method]
        dtype = "float32" if how.baseline else DTYPE  # gradients by pixels need it
        classifier = load_classifier(f"embedded:{domain}", device=prior.device, dtype=dtype)
        depends = {"settings": asdict(how)}
        if isinstance(how, OwnTokens):
            how.learn(domain, classifier, prior)
        how, root = folder_of(method, domain, classifier, prior, chosen.work)
        if how.tuned:
            depends["prompt"] = how.sampling_for(domain).prompt
        if METHODS[method].tokens:
            depends["token_file"] = root.name if how.tokens else None
        name = f"{method}/{domain}"
        row = result.kept(name, depends)
        row.setdefault("seeds", {})
        seeds = range(FIRST_SEED, FIRST_SEED + chosen.seeds)
        if "metrics" in row and all(str(seed) in row["seeds"] for seed in seeds):
            continue
        row.pop("metrics", None)
        for seed in seeds:
            began = time.perf_counter()
            plain = shared_folder(how, prior, chosen.work, seed)
            with alone(root):
                draw(how, classifier, prior, domain, chosen.images, seed, root / str(seed), plain)
            row["seeds"][str(seed)] = by_class(images_of(root / str(seed)), judge, domain)
            print(name, seed, f"{time.perf_counter() - began:.0f} s", flush=True)
            result.add(name, row)
        folders = [root / str(seed) for seed in seeds]
        row |= evaluated(folders, domain)
        row["seconds_per_image"] = seconds_per_image(folders)
        row["flops_per_image"] = flops_per_image(how, classifier, prior, domain)
        result.add(name, row)
        print(name, f"FID {row['metrics']['fid']['value']:.2f}", flush=True)
