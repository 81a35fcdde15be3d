"""The gradient of an update: from what the classifier says of images back to their context, and on to tokens' rows."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from engine.classifiers.base import Classifier, statistics_of
from engine.guidance.domain import Domain
from engine.guidance.gradient import finite_gradient
from engine.guidance.two_pass import part_by_part, two_pass
from engine.priors import Context, Prior
from engine.settings import Alignment, TokenLearning
from engine.tokens.augment import shown
from engine.tokens.scaled import scaled_gradient
from engine.tokens.source import ContextGradient
from engine.tokens.trajectories import Trajectories


@dataclass(frozen=True)
class Shown:
    """How the images of an update come from the context of n prompts, those from number `start` on, in two stages.

    Attributes:
        latents: (context, start) -> finished latents (n, ...), by the denoiser.
        images: (latents, start) -> what the classifier is shown, (n, 3, H, W), by the decoder.
    """

    latents: Callable[[Context, int], Tensor]
    images: Callable[[Tensor, int], Tensor]


def shown_of(trajectories: Trajectories, update: int, views: Tensor | None) -> Shown:
    """What an update shows, in random views (N, 2, 3) where there are some."""

    def images(latents: Tensor, start: int) -> Tensor:
        found = trajectories.prior.decode(latents)
        return found if views is None else shown(found, views[start : start + len(latents)])

    return Shown(partial(trajectories.latents, update), images)


def context_gradient(
    classifier: Classifier,
    made: Shown,
    context: Context,
    targets: Tensor,
    learning: TokenLearning,
    domain: Domain | None,
    at_once: int,
    scale: float,
    staged: bool = False,
) -> ContextGradient:
    """The gradient of one update's loss by the context of N images.

        loss = (sum of the images' cross-entropies + domain_weight N L_BN of the batch) / images_per_epoch

    Args:
        classifier: Says what the images show.
        made: Makes the images of some of the rows.
        context: Of the images, without a graph.
        targets: The images' classes, (N,).
        learning: The settings.
        domain: The term L_BN; None where it has no weight.
        at_once: How many images may hold a graph.
        scale: What the loss is multiplied by on its way back, at most.
        staged: Whether the loss's gradient is taken to the latents first and from there to the context, so that the
            graphs of decoder and denoiser are never held together. It gives the same, and runs the denoiser once more
            where L_BN of several parts does not run it twice anyway.
    """
    share, weight = 1 / learning.images_per_epoch, learning.domain_weight * len(context)
    seen: dict[int, Tensor] = {}

    def of_classes(output: object, start: int) -> Tensor:
        assert isinstance(output, Tensor)
        seen[start] = output.detach()
        wanted = targets[start : start + len(output)]
        return share * cross_entropy(output, wanted, reduction="sum")

    def gradient_by(z: Tensor, logits_of: Callable[[Tensor, int], Tensor]) -> tuple[Tensor, float]:
        """The loss's gradient by all rows of z, and its scale."""

        def scaled(scale: float) -> tuple[Tensor, Tensor]:
            if domain is not None:
                weighted = domain.times(share * weight)
                return two_pass(z, logits_of, weighted, at_once, scale, of_classes)
            return part_by_part(
                z, lambda rows, start: of_classes(logits_of(rows, start), start), at_once, scale
            )

        _, grad, suits = finite_gradient(scaled, scale)
        return grad, suits

    def latents_of(rows: Tensor, start: int) -> Tensor:
        part = context[start : start + len(rows)].with_packed(rows)
        return made.latents(part, start)

    def by_latents(rows: Tensor, start: int) -> Tensor:
        return classifier.logits(made.images(rows, start))

    packed = context.packed().float()
    if staged:
        grad, suits = _in_stages(
            packed, latents_of, partial(gradient_by, logits_of=by_latents), at_once
        )
    else:
        grad, suits = gradient_by(
            packed, lambda rows, start: by_latents(latents_of(rows, start), start)
        )
    return ContextGradient(torch.cat([seen[start] for start in sorted(seen)]), grad, suits)


def _in_stages(
    packed: Tensor,
    latents_of: Callable[[Tensor, int], Tensor],
    gradient_by: Callable[[Tensor], tuple[Tensor, float]],
    at_once: int,
) -> tuple[Tensor, float]:
    """The gradient of a loss of latents by the rows (N, F) that these are made from, and its scale.

    Args:
        packed: The rows.
        latents_of: (some of the rows, number of the first) -> their latents.
        gradient_by: All latents -> the loss's gradient by them, and its scale.
        at_once: How many rows may hold a graph.
    """
    starts = range(0, len(packed), at_once)
    with torch.no_grad():
        z = torch.cat([latents_of(packed[start : start + at_once], start) for start in starts])
    by_z, suits = gradient_by(z)
    del z
    found = []
    for start in starts:
        with torch.enable_grad():
            rows = packed[start : start + at_once].detach().requires_grad_()
            latents = latents_of(rows, start)
        grad, suits = scaled_gradient(latents, rows, by_z[start : start + at_once], suits)
        found.append(grad)
    return torch.cat(found), suits


def rows_gradient(
    prior: Prior, prompts: Sequence[str], by_context: Tensor, rows: Tensor, scale: float
) -> tuple[Tensor, float]:
    """A gradient by the packed context of prompts, (n, F), taken on to the tokens' rows (K, D), and its scale.

    prior: Speaks the tokens, whose `rows` are a leaf.
    """
    context = prior.encode(prompts)
    # Prompts that were encoded with longer ones were padded behind.
    by_context = by_context[:, : sum(context.widths)]
    return scaled_gradient(context.packed(), rows, by_context, scale)


def token_domain(classifier: Classifier, layers: str = Alignment().layers) -> Domain:
    """The term L_BN of token learning, as `Alignment` weighs it. Raises ModelError where no statistics are known."""
    known = statistics_of(
        classifier, "the domain_weight of token learning", "set `learning.domain_weight` to 0"
    )
    return Domain.of(classifier.network, known, layers, Alignment().norm)
