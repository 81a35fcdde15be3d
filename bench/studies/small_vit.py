"""A small vision transformer of each domain, for a study that needs one: none is among the embedded classifiers."""

from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor
from transformers import ViTConfig, ViTForImageClassification
from transformers.modeling_outputs import ImageClassifierOutput

from engine.classifiers import Classifier, Preprocess, load_classifier
from engine.embedded.train import classifiers
from engine.embedded.train.data import CLASSES, DOMAINS, load_pacs
from engine.embedded.train.machine import Machine
from engine.files import whole_file
from engine.networks.frozen import multiplies_bfloat16
from studies.rows import alone

KIND = "-vit"
RESOLUTION = 64
SIDE = classifiers.network_side(RESOLUTION)
PATCH = 12
WIDTH, DEPTH, HEADS = 128, 6, 4
RECIPE = replace(classifiers.BASE_RECIPE, steps=10**9, learning_rate=1e-3)
"""Of the domains' common start, which its time ends."""


class SmallViT(ViTForImageClassification):
    """It reads images of any size, as the first half of its training shows it small ones."""

    def forward(self, pixel_values: Tensor) -> ImageClassifierOutput:  # type: ignore[override]
        return super().forward(pixel_values, interpolate_pos_encoding=True)


def build(classes: int) -> SmallViT:
    """1.3 million parameters; LayerNorm alone, so nothing in it remembers its training images' moments."""
    return SmallViT(
        ViTConfig(
            hidden_size=WIDTH,
            num_hidden_layers=DEPTH,
            num_attention_heads=HEADS,
            intermediate_size=4 * WIDTH,
            image_size=SIDE,
            patch_size=PATCH,
            num_labels=classes,
        )
    )


def small_vit(
    domain: str, training: Path, work: Path, minutes: float, device: object
) -> Classifier:
    """The ViT of a domain, float32, without statistics. The first call trains those of all domains for `minutes`.

    They learn as the embedded classifiers do: from all domains' images, then from their own domain's. A training
    that was cut goes on from its last checkpoint, for `minutes` again at most.
    """
    classifiers.KINDS[KIND] = build
    folder = work / f"vit-{minutes:g}-minutes"
    networks = folder / "networks.pt"
    with alone(folder):
        if not networks.exists():
            machine = Machine(seconds=60 * minutes, bfloat16=multiplies_bfloat16())
            found = classifiers.train_domain_classifiers(
                load_pacs(training), RESOLUTION, RECIPE, folder, machine, KIND
            )
            with whole_file(networks) as file:
                torch.save({name: network.state_dict() for name, network in found.items()}, file)
    network = build(len(CLASSES))
    network.load_state_dict(torch.load(networks, weights_only=True)[domain])
    return load_classifier(
        network.eval(),
        labels=CLASSES,
        preprocess=Preprocess.squash(SIDE, mean=classifiers.MEAN, std=classifiers.STD),
        device=device,
        dtype="float32",
        statistics="none",
    )


@torch.no_grad()
def accuracy(classifier: Classifier, images: Path, domain: str) -> float:
    """The share of a parquet file's images of the domain that it recognises."""
    found = load_pacs(images)
    own = found.where(found.domains == DOMAINS.index(domain))
    seen = torch.cat(
        [classifier.logits(part.float() / 255).argmax(1).cpu() for part in own.pixels.split(100)]
    )
    return (seen == own.classes).float().mean().item()
