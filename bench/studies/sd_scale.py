"""What guidance costs at the size of a real prior: a guided step over a plain one, ours and the paper's.

    python bench/studies sd_scale                                 Stable Diffusion 2.1 at 512 px with a ResNet-50
    python bench/studies sd_scale --priors arch:sd-2.1-base ...   others; rows of other priors stay in the result
    python bench/studies sd_scale --priors arch:sdxl --ways ours --repeats 1
                                                                  at 1024 px: 16 GB, without the paper's way

As `ddis profile --prior arch:sd-2.1-base --classifier arch:resnet50 --images 1` measures it, with random weights.
Run it on a quiet machine; Stable Diffusion's weights take 5 GB in float32.
"""

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from methods import METHODS
from result_files import RESULTS, chip

from engine import load_classifier, load_prior, profile
from engine.settings import Alignment
from studies.rows import Rows

LASTS = "an hour"
RESULT = RESULTS / "sd_scale.json"
KEPT = ("plain_ms", "guided_ms", "time_ratio", "flops_ratio", "milliseconds")
"""Of a profile."""


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--priors", nargs="+", default=["arch:sd-2.1-base"])
    parser.add_argument("--classifier", default="arch:resnet50")
    parser.add_argument("--images", type=int, default=1)
    parser.add_argument("--ways", nargs="+", choices=("ours", "paper"), default=["ours", "paper"])
    parser.add_argument("--repeats", type=int, default=3, help="steps whose median counts")
    parser.add_argument("--px", type=int, help="size of the images (default: the prior's own)")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--out", type=Path, default=RESULT)
    chosen = parser.parse_args(arguments)
    classifier = load_classifier(chosen.classifier, device=chosen.device)
    device = chip(classifier.device.type)
    settings = {"classifier": chosen.classifier, "images": chosen.images}
    rows = Rows(chosen.out, settings | {"alignment": asdict(Alignment())}, device)
    for name in chosen.priors:
        prior = load_prior(name, device=chosen.device, dtype=chosen.dtype)
        if chosen.px:
            prior = prior.called_with(height=chosen.px, width=chosen.px)
        row = {}
        for method in chosen.ways:
            alignment, sampling = METHODS[method]
            found = profile(
                prior, classifier, chosen.images, alignment, sampling, repeats=chosen.repeats
            ).to_json()
            row[method] = {key: found[key] for key in KEPT}
            print(name, method, json.dumps(row[method]), flush=True)
        made = {"dtype": str(prior.dtype).removeprefix("torch."), "image_px": prior.image_size[0]}
        rows.add(f"{name}, {chosen.px} px" if chosen.px else name, made | row)
