"""What some images look like to the classifier alone: how a choice is made without a real image.

Images outside the training domain show in their L_BN, and images that lost their class, or in which guidance left
patterns that only this network reads as its domain, in its cross-entropy. Both are measured on finished
images, through views that guidance did not optimise (flipped, shifted, zoomed).
"""

from dataclasses import dataclass

import torch
from torch import Generator, Tensor
from torch.nn.functional import cross_entropy

from engine.classifiers.statistics import Statistics
from engine.events import SILENT, Events
from engine.guidance.domain import layer_weights, moment_gaps
from engine.guidance.moments import merged, recording_moments
from engine.methods.drawing import IMAGES, Drawing
from engine.tokens.augment import augmented
from engine.types import Moments

VIEWS = 4
LEAST_GAP = 1e-6
"""Of a layer, relative to its statistics; its logarithm has an end."""


@dataclass(frozen=True, kw_only=True)
class Trial:
    """What drawn images look like to the classifier, over VIEWS random views of each.

    l_bn: of all views together, each layer relative to its own stored statistics, squared (`Alignment.layers`,
    `norm`); None where it has no statistics. gap: the log of the layers' relative distances, as a mean over their means
    and variances, so that each layer says as much, however far off another is. cross_entropy: mean of the views, by
    the images' own classes.
    recognised, agreement: shares of the images whose own class it names in the image, and in each view of it.
    """

    images: int
    l_bn: float | None
    gap: float | None
    cross_entropy: float
    recognised: float
    agreement: float

    @property
    def score(self) -> float:
        """`gap` + cross-entropy: a nat of either counts the same, whatever the classifier's units.

        Cross-entropy alone without a gap. `l_bn` would not do: it swings from scale to scale, as one layer decides it.
        """
        return self.cross_entropy + (self.gap or 0.0)

    @property
    def distance(self) -> float:
        """How far the images are from the domain, as far as the classifier knows: `gap`, or cross-entropy without it.

        For choices that change the images' style, as words do, beside which cross-entropy says how simple a style is.
        """
        return self.cross_entropy if self.gap is None else self.gap


@torch.no_grad()
def observe(drawing: Drawing, events: Events = SILENT, task: str = IMAGES) -> Trial:
    """Draw the images, a group in memory at a time, and measure them in the parts that memory allows.

    task: whose steps are reported.
    """
    classifier, known = drawing.classifier, drawing.classifier.statistics
    taps = known.taps if isinstance(known, Statistics) else ()
    rng = Generator().manual_seed(0)
    moments: list[Moments] = []
    seen, sums = 0, torch.zeros(3)

    def look(images: Tensor) -> tuple[Tensor, list[Moments]]:
        with recording_moments(taps) as now:
            return classifier.logits(images).cpu(), [*now]

    for group in drawing.groups():
        samples = drawing.make(group, events, task=task)
        classes = torch.tensor([sample.key.class_index for sample in samples])
        images = torch.stack([sample.image for sample in samples]).to(classifier.device)
        in_views = []
        for _ in range(VIEWS):
            found = drawing.micro_batches.split("decode", look, augmented(images, rng))
            for part, now in found:
                moments = merged(moments, now, seen, len(part))
                seen += len(part)
            in_views.append(torch.cat([part for part, _ in found]))
        logits = torch.stack(in_views)
        right = logits.argmax(2) == classes
        own = torch.stack([sample.logits for sample in samples]).argmax(1) == classes
        loss = cross_entropy(logits.flatten(0, 1), classes.repeat(VIEWS), reduction="sum") / VIEWS
        sums += torch.stack([loss, own.sum(), right.all(0).sum()])
    cross, recognised, agreement = (sums * VIEWS / seen).tolist()
    l_bn = gap = None
    if isinstance(known, Statistics):
        weights = layer_weights(known, "relative")
        gaps = moment_gaps(moments, known.stored, weights)
        l_bn = (gaps**2).sum().item()
        gap = gaps.clamp_min(LEAST_GAP).log().mean().item()
    return Trial(
        images=seen // VIEWS,
        l_bn=l_bn,
        gap=gap,
        cross_entropy=cross,
        recognised=recognised,
        agreement=agreement,
    )
