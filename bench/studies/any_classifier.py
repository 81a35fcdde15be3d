"""Guidance of classifiers without BatchNorm: statistics files, energy, and BatchNorm's own beside them.

    python bench/studies any_classifier                           all rows and domains
    python bench/studies any_classifier --rows "resnet, file" ... some of them; other rows stay
    python bench/studies any_classifier --smoke                   two short rows, one domain, kept nowhere

Every row draws the same seeds. Files are measured on the images that the classifiers were trained on, pacs64-train of
`$DDIS_DATA`. Vision transformers, of which none ships, are first trained on these. A run that is interrupted continues
where it stopped.
"""

import argparse
import math
import os
import tempfile
import time
import warnings
from collections.abc import Sequence
from copy import deepcopy
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from result_files import RESULTS
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from engine.classifiers import Classifier, load_classifier
from engine.embedded.judge import load_judge
from engine.evaluation.export_statistics import ExactStatisticsWarning, export_statistics
from engine.evaluation.shares import shares
from engine.priors import Prior, load_prior
from engine.settings import Alignment, Sampling
from engine.settings.statistics import StatisticsExport
from studies.evidence import METRICS, Method, draw, evaluated, images_of
from studies.options import several
from studies.rows import DTYPE, rows_by_domain
from studies.small_vit import accuracy, small_vit

LASTS = "8 hours"
SEED = 1700
"""Images of this seed are for this study alone."""
RESULT = RESULTS / "any_classifier.json"
DATA = Path(os.environ.get("DDIS_DATA", Path(__file__).resolve().parents[3] / "shared" / "data"))
TRAINING, TEST = "pacs64-train.parquet", "pacs64-test.parquet"
FILE = "file"
CHANNELS = Alignment(layers="channels")
VIT_MINUTES = 24.0
"""What training all vision transformers takes, of one core."""


@dataclass(frozen=True)
class Row:
    """One way to guide.

    Attributes:
        network: 'resnet', 'folded' (the same one, BatchNorm in its convolutions), 'convnext' or 'vit' (`small_vit`).
        statistics: a source, or FILE for one of the training images.
        alignment: None for the plain prior.
        export: how the file is written.
        sampling: of the images.
    """

    network: str
    statistics: str
    alignment: Alignment | None
    export: StatisticsExport = StatisticsExport()
    sampling: Sampling = Sampling()


ROWS = {
    "plain": Row("resnet", "none", None),
    "resnet, BatchNorm": Row("resnet", "batch-norm", Alignment()),
    "resnet, BatchNorm by channels": Row("resnet", "batch-norm", CHANNELS),
    "resnet, class alone": Row("resnet", "none", Alignment(domain_weight=0.0)),
    "resnet, file": Row("resnet", FILE, Alignment()),
    "resnet, file of epsilon 8": Row("resnet", FILE, Alignment(), StatisticsExport(epsilon=8.0)),
    "resnet, energy": Row("resnet", "energy", Alignment()),
    "folded, file": Row("folded", FILE, Alignment()),
    "folded, file by channels": Row("folded", FILE, CHANNELS),
    "convnext, class alone": Row("convnext", "none", Alignment(domain_weight=0.0)),
    "convnext, file": Row("convnext", FILE, Alignment()),
    "convnext, file by channels": Row("convnext", FILE, CHANNELS),
    "convnext, energy": Row("convnext", "energy", Alignment()),
    "vit, class alone": Row("vit", "none", Alignment(domain_weight=0.0)),
    "vit, file": Row("vit", FILE, Alignment()),
    "vit, file by channels": Row("vit", FILE, CHANNELS),
    "vit, energy": Row("vit", "energy", Alignment()),
    "vit, patch entropy": Row("vit", "patch-entropy", Alignment()),
}
SMOKE = ("resnet, BatchNorm", "folded, file by channels")


def folded(classifier: Classifier) -> nn.Module:
    """The classifier's network with each BatchNorm layer inside the convolution whose output it reads."""
    network = deepcopy(classifier.network)
    names = {layer: name for name, layer in network.named_modules()}
    made: dict[int, nn.Module] = {}
    kept: list[torch.Tensor] = []
    pairs: dict[nn.Module, nn.Module] = {}

    def give(layer: nn.Module, _: Any, output: torch.Tensor) -> None:
        made[id(output)] = layer
        kept.append(output)  # else another tensor gets its id

    def read(layer: nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        pairs[layer] = made[id(inputs[0])]

    for layer in names:
        if isinstance(layer, nn.Conv2d):
            layer.register_forward_hook(give)
        elif isinstance(layer, nn.BatchNorm2d):
            layer.register_forward_pre_hook(read)
    with torch.no_grad():
        network(torch.zeros(1, 3, *classifier.preprocess.crop, device=classifier.device))
    for norm, conv in pairs.items():
        network.set_submodule(names[conv], fuse_conv_bn_eval(conv, norm))
        network.set_submodule(names[norm], nn.Identity())
    for layer in network.modules():
        layer._forward_hooks.clear()
        layer._forward_pre_hooks.clear()
    return network


def bare(row: Row, domain: str, data: Path, work: Path, device: object) -> Classifier:
    """A row's classifier without statistics, in float32, in which they are measured."""
    if row.network == "vit":
        return small_vit(domain, data / TRAINING, work, VIT_MINUTES, device)
    if row.network == "convnext":
        return load_classifier(f"embedded:{domain}-convnext", device=device, statistics="none")
    found = load_classifier(f"embedded:{domain}", device=device, statistics="none")
    return again(found, folded(found), "none", "float32") if row.network == "folded" else found


def again(classifier: Classifier, network: nn.Module, statistics: str, dtype: str) -> Classifier:
    return load_classifier(
        network,
        labels=classifier.labels,
        preprocess=classifier.preprocess,
        device=classifier.device,
        dtype=dtype,
        statistics=statistics,
    )


def classifier_of(row: Row, domain: str, data: Path, work: Path, device: object) -> Classifier:
    """A row's classifier with its statistics, whose file, if it takes one, is written each time."""
    found = bare(row, domain, data, work, device)
    statistics = row.statistics
    if statistics == FILE:
        private = "" if row.export.epsilon is None else f"-{row.export.epsilon:g}"
        file = work / f"{domain}-{row.network}{private}.safetensors"
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ExactStatisticsWarning)
            export_statistics(found, data / TRAINING, file, row.export, domain=domain)
        statistics = str(file)
    return again(found, found.network, statistics, DTYPE)


def measure(
    names: Sequence[str], domains: Sequence[str], images: int, data: Path, work: Path, out: Path
) -> None:
    """Draw and judge what the result in `out` lacks. images: of each class. work: keeps images and files."""
    prior, judge = load_prior("embedded", dtype=DTYPE), load_judge()
    settings = {"images_per_class": images, "seed": SEED}
    result = rows_by_domain(out, prior, settings, ROWS, judge.domains)
    for domain in domains:
        for name in names:
            key = f"{name}/{domain}"
            row = result.kept(key, {"settings": asdict(ROWS[name])})
            if "metrics" not in row:
                began = time.perf_counter()
                row |= drawn(name, domain, images, data, work / prior.fingerprint, prior, judge)
                result.add(key, row)
                print(
                    f"{key}: FID {row['metrics']['fid']['value']:.2f}, coverage "
                    f"{row['metrics']['coverage']['value']:.2f}, {time.perf_counter() - began:.0f} s",
                    flush=True,
                )


def drawn(
    name: str, domain: str, images: int, data: Path, work: Path, prior: Prior, judge: Any
) -> dict[str, Any]:
    """The images of a row, judged."""
    how = ROWS[name]
    classifier = classifier_of(how, domain, data, work, prior.device)
    place = name.replace(" ", "_").replace(",", "")
    method = Method(how.alignment, sampling=how.sampling)
    folder, plain = work / domain / place, work / "plain"
    draw(method, classifier, prior, domain, images, SEED, folder, plain)
    seen = asdict(shares(images_of(folder), judge, domain))
    known = {name: share for name, share in seen.items() if not math.isnan(share)}
    trained = (
        {"accuracy": accuracy(classifier, data / TEST, domain)} if how.network == "vit" else {}
    )
    return {**evaluated(folder, domain, METRICS), "shares": known, **trained}


def main() -> None:
    domains = load_judge().domains
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    several(parser, "--rows", ROWS)
    several(parser, "--domains", domains)
    parser.add_argument("--images", type=int, default=17, help="images of each class")
    parser.add_argument("--data", type=Path, default=DATA, help=f"folder of {TRAINING}")
    parser.add_argument("--work", type=Path, default=Path("out/any_classifier"))
    parser.add_argument("--out", type=Path, default=RESULT)
    parser.add_argument("--smoke", action="store_true", help="see that it runs; nothing is kept")
    chosen = parser.parse_args()
    if not (chosen.data / TRAINING).is_file():
        parser.error(f"there is no {chosen.data / TRAINING}: set DDIS_DATA, or give --data")
    if not chosen.smoke:
        places = chosen.data, chosen.work, chosen.out
        measure(chosen.rows, chosen.domains, chosen.images, *places)
        return
    for name in SMOKE:
        ROWS[name] = replace(ROWS[name], sampling=Sampling(steps=4))
    with tempfile.TemporaryDirectory() as folder:
        work, out = Path(folder) / "work", Path(folder) / "result.json"
        measure(SMOKE, domains[:1], 1, chosen.data, work, out)
