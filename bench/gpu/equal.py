"""The embedded models on the CPU and on the device: the same images, and the same gradient?

Unguided images should agree to 1e-4 in float32. Guided ones part after a few steps whatever is right, since each step
follows the gradient of the one before; there the gradient is compared, and should agree to 1e-2 (float16: 2e-2).
"""

from typing import Any

import torch
from ddis_kernels import use_backend
from torch import Tensor

from engine import generate
from engine.classifiers import Classifier, load_classifier
from engine.guidance.decoder import decoder_of
from engine.guidance.gradient import fitted
from engine.guidance.objective import Objective
from engine.priors import Prior, load_prior
from engine.settings import Alignment, Sampling
from gpu.card import Card
from gpu.record import Record

IMAGES, STEPS = 4, 8
SCALE = 256.0


def measure(record: Record, card: Card) -> None:
    """Put what each dtype gives on the device, next to float32 on the CPU."""
    # The CPU's kernels may not be built on a machine that is there for its GPU.
    with use_backend("reference"):
        expected = _made(card, "cpu", "float32")
    ways = card.pick(("float32", "tf32", "float16"), ("float32",))
    for way in ways:
        torch.backends.cudnn.allow_tf32 = way != "float32"
        dtype = "float16" if way == "float16" else "float32"
        record.attempt(
            way, lambda dtype=dtype: _compared(_made(card, card.device, dtype), expected)
        )


def _made(card: Card, device: torch.device | str, dtype: str) -> dict[str, Tensor]:
    prior = load_prior("embedded", device=device, dtype=dtype)
    classifier = load_classifier("embedded:cartoon", device=device, dtype=dtype)
    sampling = Sampling(steps=card.pick(STEPS, 2), batch=IMAGES)
    asked = {"sampling": sampling, "seed": 1}
    made = {
        name: torch.stack(
            [
                sample.image
                for sample in generate(
                    classifier, prior, classifier.labels[:1], IMAGES, method=method, **asked
                )
            ]
        )
        for name, method in (("plain images", "plain"), ("guided images", "ddis"))
    }
    return {**made, "gradient": _gradient(prior, classifier, SCALE if dtype == "float16" else 1.0)}


def _gradient(prior: Prior, classifier: Classifier, scale: float) -> Tensor:
    noise = torch.Generator().manual_seed(0)
    z = torch.randn(IMAGES, *prior.latent_shape(1)[1:], generator=noise).to(prior.device)
    classes = torch.zeros(IMAGES, dtype=torch.int64, device=prior.device)
    decoder = decoder_of(Alignment(), prior, classifier.preprocess)
    objective = Objective(classifier, Alignment(), decoder)
    return objective.value_and_grad(z, classes, scale=fitted(scale))[1].cpu()


def _compared(got: dict[str, Tensor], expected: dict[str, Tensor]) -> dict[str, Any]:
    row: dict[str, Any] = {}
    for name, value in got.items():
        gap = value - expected[name]
        row[name] = {
            "largest_gap": gap.abs().max().item(),
            "relative_gap": (gap.norm() / expected[name].norm()).item(),
        }
    return row
