"""A style of one's own, from a set of images to a data set like it: fit a classifier, align, compare with the set.

python bench/studies styles --style-set FOLDER [--test FOLDER] --name NAME      your own set, one folder a class
python bench/studies styles --prompt "a manga drawing of {a} {class}" --classes dog horse house --prior ID --name manga
python bench/studies styles                                                     sets drawn by the embedded prior

The classifier sees the set alone; FID is by the judge's features, against the set. Several runs with other --styles may
go on at once. A row that another alignment made is run again.
"""

import argparse
from dataclasses import asdict
from hashlib import blake2b
from pathlib import Path

from methods import guided
from result_files import RESULTS

from engine.classifiers import Classifier, load_classifier
from engine.downstream.fit import fit
from engine.embedded.captions import STYLED
from engine.evaluation.evaluate import evaluate
from engine.evaluation.extractors import load_extractor
from engine.priors import Prior, load_prior
from engine.runners.generate import generate
from engine.settings import Alignment, Evaluation, Sampling
from engine.settings.methods import Plain
from studies.options import several
from studies.rows import Rows

LASTS = "an hour"
RESULT = RESULTS / "styles.json"
SET_SEED, TEST_SEED, SEED = 700, 701, 702
METHODS = {"plain": None, "ours": Alignment()}


def style_set(
    prompt: str, classifier: Classifier, prior: Prior, images: int, seed: int, folder: Path
) -> Path:
    """Images of one style as a prompt asks the prior for it; of the classifier only the classes' names count."""
    for _ in generate(
        classifier,
        prior,
        images_per_class=images,
        seed=seed,
        method=Plain(sampling=Sampling(prompt=prompt)),
        out=folder,
    ):
        pass
    return folder


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--style-set", type=Path, help="a set of your own, one folder a class")
    parser.add_argument(
        "--test", type=Path, help="more of it, that the classifier's accuracy is measured on"
    )
    parser.add_argument(
        "--prompt", help="draws a set of --classes, with {a} {class} for each one's name"
    )
    parser.add_argument("--classes", nargs="+", help="class names of the set that --prompt draws")
    parser.add_argument(
        "--prior", default="embedded", help="draws sets and images, as in `ddis generate`"
    )
    parser.add_argument("--name", default="own", help="what the set is called in the results")
    several(parser, "--styles", STYLED, "of the embedded prior")
    parser.add_argument(
        "--set-images", type=int, default=48, help="images of each class in a set that is drawn"
    )
    parser.add_argument(
        "--images", type=int, default=16, help="images of each class by each method"
    )
    parser.add_argument("--work", type=Path, default=Path("out/styles"))
    parser.add_argument("--out", type=Path, default=RESULT)
    chosen = parser.parse_args()
    if (chosen.prompt is None) != (chosen.classes is None) or (chosen.prompt and chosen.style_set):
        parser.error("--prompt and --classes draw a set together, and in place of --style-set")
    if chosen.prior != "embedded" and chosen.out == RESULT:
        parser.error(
            f"{RESULT} has sets of the embedded prior: name another --out for --prior {chosen.prior}"
        )
    prior = load_prior(chosen.prior)
    asked = {
        "prior": prior.fingerprint,
        "sampling": asdict(Sampling()),
        "set_images": chosen.set_images,
        "images": chosen.images,
    }
    result, ours = Rows(chosen.out, asked, prior.device, STYLED), METHODS["ours"]
    own = chosen.style_set or chosen.prompt
    for style in [chosen.name] if own else chosen.styles:
        row = result.kept(style, {"alignment": asdict(ours)})
        if "fid" in row:
            continue
        root = chosen.work / prior.fingerprint / style
        images, test = chosen.style_set, chosen.test
        if images is None:
            names = (
                load_classifier("arch:resnet18", labels=chosen.classes)
                if chosen.classes
                else load_classifier("embedded:photo")
            )
            prompt = chosen.prompt or STYLED[style][0].replace("{noun}", "{class}")
            images = style_set(prompt, names, prior, chosen.set_images, SET_SEED, root / "set")
            test = style_set(prompt, names, prior, chosen.images, TEST_SEED, root / "test")
        report = fit(images, root / "classifier", test=test)
        classifier = load_classifier(root / "classifier", device=prior.device)
        row |= {"classes": report["classes"], "accuracy": report["accuracy"], "fid": {}}
        for method, alignment in METHODS.items():
            folder = (
                root / f"{method}-{blake2b(repr(alignment).encode(), digest_size=4).hexdigest()}"
            )
            for _ in generate(
                classifier, prior, None, chosen.images, **guided(alignment), seed=SEED, out=folder
            ):
                pass
            metrics = evaluate(
                folder, images, load_extractor("judge"), settings=Evaluation(resamples=0)
            )
            row["fid"][method] = metrics["metrics"]["fid"]["value"]
        result.add(style, row)
        print(style, row, flush=True)
