"""What CUDA graphs and channels_last give: the UNet's step and the gradient of guidance, launched and replayed."""

from functools import partial
from typing import Any

import torch

from engine.classifiers import Classifier
from engine.guidance.decoder import decoder_of
from engine.guidance.gradient import fitted
from engine.guidance.objective import Objective
from engine.priors import Prior
from engine.settings import Alignment
from gpu.card import Card
from gpu.record import Record

LAYOUTS = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last}
SCALE = 256.0
"""What the loss is multiplied by, so that float16 holds its gradient."""
WAYS = {"ours": Alignment(), "paper": Alignment.paper()}


def measure(record: Record, card: Card) -> None:
    prior, classifier = card.prior(), card.classifier()
    networks = [prior.network, prior.vae, classifier.network]
    networks += [] if prior.tiny is None else [prior.tiny]
    for layout, memory_format in LAYOUTS.items():
        for network in networks:
            network.to(memory_format=memory_format)
        for batch in card.pick((1, 8), (1,)):
            record.attempt(f"UNet, batch {batch}, {layout}", partial(_unet, card, prior, batch))
            for name, alignment in WAYS.items():
                work = partial(_gradient, card, prior, classifier, alignment, batch)
                record.attempt(f"gradient {name}, batch {batch}, {layout}", work)


def _unet(card: Card, prior: Prior, batch: int) -> dict[str, Any]:
    """One pass of both branches of CFG."""
    rows = 2 * batch
    z = torch.randn(rows, *prior.latent_shape(1)[1:], device=card.device, dtype=card.dtype)
    step, network = prior.schedule(30)[10], prior.network
    with torch.no_grad():
        packed, width = (
            prior.encode(["a photo"] * rows).packed(),
            network.config.cross_attention_dim,
        )
        context = packed.view(rows, -1, width)

        def work() -> object:
            return network(z, step.timestep, encoder_hidden_states=context, return_dict=False)

        return {"s": card.seconds(work)} | card.gpu_seconds(work)


def _gradient(
    card: Card, prior: Prior, classifier: Classifier, alignment: Alignment, batch: int
) -> dict[str, Any]:
    decoder = decoder_of(alignment, prior, classifier.preprocess)
    classes = torch.zeros(batch, dtype=torch.int64, device=card.device)
    objective = Objective(classifier, alignment, decoder)
    z = torch.randn(batch, *prior.latent_shape(1)[1:], device=card.device)

    def work() -> object:
        return objective.value_and_grad(z, classes, scale=fitted(SCALE))

    return {"s": card.seconds(work)} | card.gpu_seconds(work)
