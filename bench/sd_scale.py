"""What guidance costs at the size of a real prior: a guided step over a plain one, ours and the paper's.

    python bench/sd_scale.py                                 Stable Diffusion 2.1 at 512 px with a ResNet-50
    python bench/sd_scale.py --priors arch:sd-2.1-base ...   others; rows of other priors stay in the result

As `ddis profile --prior arch:sd-2.1-base --classifier arch:resnet50 --images 1` measures it, with random weights.
Run it on a quiet machine; Stable Diffusion's weights take 5 GB in float32.
"""

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from rows import Rows
from sweep import environment

from engine import load_classifier, load_prior, profile
from engine.settings import Alignment, Sampling

RESULT = Path(__file__).parent / "results" / "sd_scale.json"
METHODS = {"ours": (Alignment(), Sampling()), "paper": (Alignment.paper(), Sampling.paper())}
KEPT = ("plain_ms", "guided_ms", "time_ratio", "flops_ratio", "milliseconds")
"""Of a profile."""


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--priors", nargs="+", default=["arch:sd-2.1-base"])
    parser.add_argument("--classifier", default="arch:resnet50")
    parser.add_argument("--images", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=3, help="steps whose median counts")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--out", type=Path, default=RESULT)
    chosen = parser.parse_args(arguments)
    classifier = load_classifier(chosen.classifier, device=chosen.device)
    device = environment(classifier.device.type)["device"]
    settings = {"classifier": chosen.classifier, "images": chosen.images}
    rows = Rows(chosen.out, settings | {"alignment": asdict(Alignment())}, device)
    for name in chosen.priors:
        prior = load_prior(name, device=chosen.device)
        row = {}
        for method, (alignment, sampling) in METHODS.items():
            found = profile(
                prior, classifier, chosen.images, alignment, sampling, repeats=chosen.repeats
            ).to_json()
            row[method] = {key: found[key] for key in KEPT}
            print(name, method, json.dumps(row[method]), flush=True)
        rows.add(name, {"dtype": str(prior.dtype).removeprefix("torch."), **row})


if __name__ == "__main__":
    main()
