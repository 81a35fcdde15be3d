"""The gradient of an update: from what the classifier says of images back to their context, and on to tokens' rows."""

from collections.abc import Callable, Sequence

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

ImagesOf = Callable[[Context, int], Tensor]
"""(context of n prompts with a graph, number of the first) -> what the classifier is shown, (n, 3, H, W)."""


def images_of(trajectories: Trajectories, update: int, views: Tensor | None) -> ImagesOf:
    """The images that an update reads, in random views (N, 2, 3) where there are some."""

    def made(context: Context, start: int) -> Tensor:
        images = trajectories.images(update, context, start)
        return images if views is None else shown(images, views[start : start + len(context)])

    return made


def context_gradient(
    classifier: Classifier,
    made: ImagesOf,
    context: Context,
    targets: Tensor,
    learning: TokenLearning,
    domain: Domain | None,
    at_once: int,
    scale: float,
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
    """
    share, weight = 1 / learning.images_per_epoch, learning.domain_weight * len(context)
    seen: dict[int, Tensor] = {}

    def logits_of(rows: Tensor, start: int) -> Tensor:
        part = context[start : start + len(rows)].with_packed(rows)
        return classifier.logits(made(part, start))

    def of_classes(output: object, start: int) -> Tensor:
        assert isinstance(output, Tensor)
        seen[start] = output.detach()
        wanted = targets[start : start + len(output)]
        return share * cross_entropy(output, wanted, reduction="sum")

    def of_rows(rows: Tensor, start: int) -> Tensor:
        return of_classes(logits_of(rows, start), start)

    def whole(scale: float) -> tuple[Tensor, Tensor]:
        z = context.packed().float()
        if domain is not None:
            weighted = domain.times(share * weight)
            return two_pass(z, logits_of, weighted, at_once, scale, of_classes)
        return part_by_part(z, of_rows, at_once, scale)

    _, grad, suits = finite_gradient(whole, scale)
    return ContextGradient(torch.cat([seen[start] for start in sorted(seen)]), grad, suits)


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
