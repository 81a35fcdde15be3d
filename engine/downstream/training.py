"""The training loop that distilling and pruning share: a student learns the teacher's soft labels and nothing else.

Hinton et al., Distilling the Knowledge in a Neural Network (arXiv 1503.02531). Everything is float32, and a function of
the student's first weights, the images and the seed.
"""

import copy
import math
from collections.abc import Callable, Mapping
from itertools import islice, pairwise

import torch
from torch import Tensor, nn
from torch.nn.functional import kl_div

from engine.classifiers import Classifier, Preprocess
from engine.classifiers.outputs import logits_of
from engine.downstream.mixing import mixed
from engine.downstream.pixels import Images
from engine.errors import ConfigError, GuidanceError
from engine.events import Advance
from engine.settings.downstream import Distillation
from engine.tokens.augment import augmented

Logits = Callable[[Tensor], Tensor]
"""Images (N, 3, H, W) in [0, 1] of the size that the network reads -> logits (N, K), float32."""
WARMUP = 0.1
MEASURED_AT_ONCE = 256


def reading(network: nn.Module, preprocess: Preprocess) -> Logits:
    """A network as a function of images that are already of its size."""
    return lambda images: logits_of(network, preprocess.normalised(images).contiguous()).float()


def teacher_of(classifier: Classifier) -> Logits:
    """The frozen classifier as a teacher; a copy in float32, laid out as convolutions run fastest."""
    network = copy.deepcopy(classifier.network).float().eval()
    return reading(fastest(network), classifier.preprocess)


def fastest(network: nn.Module) -> nn.Module:
    """The network with its weights' channels last in memory, in place."""
    return network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]


def distillation_loss(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """T^2 KL(softmax(teacher / T) || softmax(student / T)), mean over the images. Logits (N, K) -> scalar.

    T^2 keeps the size of the gradient: softened, it shrinks by 1 / T^2 (section 2 of the paper).
    """
    scaled = [(logits / temperature).log_softmax(1) for logits in (student, teacher)]
    return temperature**2 * kl_div(scaled[0], scaled[1], reduction="batchmean", log_target=True)


def teach(
    student: nn.Module,
    preprocess: Preprocess,
    teacher: Logits,
    images: Images,
    settings: Distillation,
    seed: int,
    advance: Advance = lambda _: None,
) -> None:
    """Train a student on the teacher's soft labels of the images, in place; it ends in evaluation mode.

    advance: is given shares of the training as they are done. Raises GuidanceError where the loss is no number.
    """
    if len(images) < 2:
        raise ConfigError(
            f"the images to learn from are {len(images)} in number, expected at least 2: BatchNorm needs "
            "several. Make more."
        )
    rng = torch.Generator().manual_seed(seed)
    fastest(student).train().requires_grad_(True)
    device = next(student.parameters()).device
    look = reading(student, preprocess)
    optimizer = torch.optim.AdamW(
        student.parameters(), lr=settings.learning_rate, weight_decay=settings.weight_decay
    )
    stored = _stored_labels(images, teacher, device) if settings.soft_labels == "manifest" else None
    cuts = batch_bounds(len(images), settings.batch)
    updates, done = settings.updates or settings.epochs * (len(cuts) - 1), 0
    while done < updates:
        order = torch.randperm(len(images), generator=rng)
        for start, stop in islice(pairwise(cuts), updates - done):
            places = order[start:stop]
            views = images.views(places, device)
            if settings.augment:
                views = augmented(views, rng)
            if settings.mix != "none":
                views = mixed(views, settings.mix, rng)
            with torch.no_grad():
                target = teacher(views) if stored is None else stored[places].to(device)
            loss = distillation_loss(look(views), target, settings.temperature)
            for group in optimizer.param_groups:
                group["lr"] = settings.learning_rate * rate(done, updates)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            done += 1
            advance(1 / updates)
        if not math.isfinite(loss.item()):
            raise GuidanceError(
                f"the loss of the student is {loss.item()} after {done} updates, expected a finite number: lower the "
                f"learning rate ({settings.learning_rate})."
            )
    student.eval().requires_grad_(False)


def rate(update: int, updates: int) -> float:
    """The learning rate of an update as a share of the largest: a linear start, then half a cosine to zero."""
    warm = max(1.0, WARMUP * updates)
    if update < warm:
        return (update + 1) / (warm + 1)
    return 0.5 * (1 + math.cos(math.pi * (update - warm) / max(1.0, updates - warm)))


def batch_bounds(number: int, batch: int) -> list[int]:
    """Where batches of nearly equal size begin and end: a rest of one image would break BatchNorm."""
    count = max(1, min(-(-number // batch), number // 2))
    return [number * part // count for part in range(count + 1)]


@torch.no_grad()
def logits_on(network: Logits, images: Images, device: torch.device) -> Tensor:
    """Logits (N, K) of whole images, without augmentation, on the CPU."""
    places = torch.arange(len(images)).split(MEASURED_AT_ONCE)
    return torch.cat([network(images.views(part, device)).cpu() for part in places])


def scores(found: Tensor, taught: Tensor, images: Images, tested: bool) -> dict[str, Tensor]:
    """What each image says of a network, (N,) float32, from its logits and the teacher's, (N, K).

    accuracy: where the classes are those of real images. agreement: with the teacher's class. kl: KL(teacher ||
    network) in nats, at temperature 1.
    """
    guess = found.argmax(1)
    outputs, targets = (logits.double().log_softmax(1) for logits in (found, taught))
    scored = {"accuracy": guess == images.classes} if tested else {}
    scored |= {
        "agreement": guess == taught.argmax(1),
        "kl": kl_div(outputs, targets, reduction="none", log_target=True).sum(1),
    }
    return {name: values.float() for name, values in scored.items()}


def means(scores: Mapping[str, Tensor]) -> dict[str, float | None]:
    """The means of `scores`; accuracy is None where it is not known."""
    return {"accuracy": None, **{name: values.mean().item() for name, values in scores.items()}}


def _stored_labels(images: Images, teacher: Logits, device: torch.device) -> Tensor:
    """The logits that came with the images; of images that came without, the teacher's on them whole."""
    return logits_on(teacher, images, device) if images.logits is None else images.logits
