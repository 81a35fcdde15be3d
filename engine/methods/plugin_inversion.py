"""Plug-In Inversion: augmentations in the place of regularisers; cross-entropy alone, no BatchNorm statistics.

    min_x  mean over copies of  CE(f(ColorShift(jitter(x))), y)

Centring and zoom: the image grows in stages. At each, the image so far is enlarged (zoom) and set into a frame of fresh
noise (centring), and is shown to the network resized to the size that it reads; the last stage has that size. So the
object is found while there are few pixels, and in the middle. ColorShift shows an ensemble of copies with random
contrast and brightness by channel, so that no single colouring is fitted.

The paper states that a stage is padded and resized, not how the growth is shared: here `zoom` says it.

Ghiasi et al., Plug-In Inversion: Model-Agnostic Inversion for Vision with Data Augmentations, ICML 2022
(arXiv 2201.12961), section 3 and algorithm 1.
"""

from collections.abc import Sequence

import torch
from torch import Generator, Tensor
from torch.nn.functional import cross_entropy, interpolate

from engine.classifiers.base import Classifier
from engine.methods.descent import Canvas, OnIteration, Watch, descend, read_at
from engine.methods.inversion import InversionMethod
from engine.methods.views import color_shifted, jittered
from engine.settings.inversion import PlugInInversion

BETAS = (0.9, 0.999)


def plug_in_inversion(
    classifier: Classifier,
    labels: Sequence[int],
    generator: Generator,
    settings: PlugInInversion = PlugInInversion(),
    student: Classifier | None = None,  # noqa: ARG001
    on_iteration: OnIteration | None = None,
) -> Tensor:
    """Images (N, 3, H, W) in [0, 1] of these classes, at the classifier's input size. student: of no use here."""
    canvas = Canvas(classifier)
    reader = read_at(classifier, canvas.size)
    watch = Watch(settings.stages * settings.iterations, labels, on_iteration)
    target = torch.tensor(labels, device=classifier.device).repeat(settings.copies)

    def optimise(x: Tensor) -> None:
        def loss() -> Tensor:
            whole = (
                x if x.shape[2:] == canvas.size else interpolate(x, canvas.size, mode="bilinear")
            )
            seen = jittered(whole, settings.jitter, generator)
            copies = color_shifted(
                seen, settings.copies, settings.color_shift, settings.color_spread, generator
            )
            return cross_entropy(reader.logits(canvas.images(copies)), target)

        groups = [{"params": [x], "lr": settings.learning_rate}]
        descend(groups, loss, settings.iterations, BETAS, watch, lambda: canvas.clamp_(x.data))

    sizes = stage_sizes(canvas.size, settings.stages)
    x = canvas.noise(len(labels), sizes[0], generator)
    for size in sizes:
        x = grown(x.detach(), canvas.noise(len(labels), size, generator), settings.zoom)
        canvas.clamp_(x)
        x.requires_grad_()
        optimise(x)
    return canvas.finished(x)


def stage_sizes(size: tuple[int, int], stages: int) -> list[tuple[int, int]]:
    """(height, width) of each stage, growing evenly to `size`."""
    return [
        (max(1, round(size[0] * stage / stages)), max(1, round(size[1] * stage / stages)))
        for stage in range(1, stages + 1)
    ]


def grown(x: Tensor, frame: Tensor, zoom: float) -> Tensor:
    """x (N, 3, h, w), enlarged by a share of the way to frame (N, 3, H, W), in the frame's middle."""
    inner = [
        round(have + zoom * (want - have))
        for have, want in zip(x.shape[2:], frame.shape[2:], strict=True)
    ]
    top, left = ((want - have) // 2 for have, want in zip(inner, frame.shape[2:], strict=True))
    grown = frame.clone()
    grown[:, :, top : top + inner[0], left : left + inner[1]] = interpolate(
        x, inner, mode="bilinear"
    )
    return grown


METHOD = InversionMethod(plug_in_inversion)
