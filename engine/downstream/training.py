"""The training loop that distilling and pruning share: a student learns the teacher's soft labels and nothing else.

Hinton et al., Distilling the Knowledge in a Neural Network (arXiv 1503.02531). Everything is float32, and a function of
the student's first weights, the images and the seed.
"""

import copy
import math
from collections.abc import Callable, Iterator, Mapping
from itertools import islice, pairwise

import torch
from torch import Tensor, nn
from torch.nn.functional import kl_div

from engine.classifiers import Classifier, Preprocess
from engine.classifiers.outputs import logits_of
from engine.downstream.mixing import mixed
from engine.downstream.pixels import Images
from engine.downstream.stream import Stream
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
    images: Images | Stream,
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
    epoch = len(batch_bounds(len(images), settings.batch)) - 1
    updates = settings.updates or settings.epochs * epoch
    for done, (views, target) in enumerate(
        _lessons(images, teacher, settings, updates, device, rng), start=1
    ):
        loss = distillation_loss(look(views), target, settings.temperature)
        for group in optimizer.param_groups:
            group["lr"] = settings.learning_rate * rate(done - 1, updates)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        advance(1 / updates)
        if (done % epoch == 0 or done == updates) and not math.isfinite(loss.item()):
            raise GuidanceError(
                f"the loss of the student is {loss.item()} after {done} updates, expected a finite number: lower the "
                f"learning rate ({settings.learning_rate})."
            )
    student.eval().requires_grad_(False)


def _lessons(
    images: Images | Stream,
    teacher: Logits,
    settings: Distillation,
    updates: int,
    device: torch.device,
    rng: torch.Generator,
) -> Iterator[tuple[Tensor, Tensor]]:
    """What a student sees at each update, (n, 3, H, W), and the logits that it is to have there, (n, K)."""
    if isinstance(images, Images) and settings.soft_labels == "manifest":
        stored = _stored_labels(images, teacher, device)
        for places in _orders(len(images), settings.batch, updates, rng):
            yield _seen(images.views(places, device), settings, rng), stored[places].to(device)
        return
    shown: Iterator[Tensor]
    if isinstance(images, Images):
        orders = _orders(len(images), settings.batch, updates, rng)
        shown = (images.views(places, device) for places in orders)
    else:
        shown = images.batches(settings.batch, updates, device, rng)
    for whole in shown:
        views = _seen(whole, settings, rng)
        with torch.no_grad():
            target = teacher(views)
        yield views, target


def _orders(number: int, batch: int, updates: int, rng: torch.Generator) -> Iterator[Tensor]:
    """The places of the images of each update: every image once an epoch, in a new order."""
    cuts = batch_bounds(number, batch)
    done = 0
    while done < updates:
        order = torch.randperm(number, generator=rng)
        for start, stop in islice(pairwise(cuts), updates - done):
            yield order[start:stop]
            done += 1


def _seen(views: Tensor, settings: Distillation, rng: torch.Generator) -> Tensor:
    """Views as a student sees them."""
    if settings.augment:
        views = augmented(views, rng)
    return views if settings.mix == "none" else mixed(views, settings.mix, rng)


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
