"""NaturalInversion: not pixels but a small network that draws one batch of them is optimised.

    x = s * P(G(z), f's features of G(z))
    min_{G, P, s}  CE(f(x), y) + a_f R_feature(x) + a_tv R_TV(x) + a_l2 R_l2(x)

G is a generator, new for each batch (one-to-one), whose latents z stay; P the Feature Transfer Pyramid, which redraws
G's image with the classifier's multi-scale features of it; s the Adaptive Channel Scaling, one number a colour channel.
R_feature is L_BN with un-squared norms over the batch, as in DeepInversion.

Kim et al., NaturalInversion: Data-Free Image Synthesis Improving Real-World Consistency, AAAI 2022 (arXiv 2306.16661).
Its images are 32 px. The depth of G and P follows the image's size, and P's first layer the classifier's widths.
"""

from collections.abc import Sequence

import torch
from torch import Generator, Tensor, nn
from torch.nn.functional import cross_entropy

from engine.classifiers.base import Classifier, statistics_of
from engine.classifiers.statistics import Statistics, Tap
from engine.errors import ModelError
from engine.guidance.domain import Domain
from engine.methods.descent import Canvas, OnIteration, Watch, descend, read_at
from engine.methods.inversion import InversionMethod
from engine.methods.penalties import image_norm, total_variation
from engine.methods.pyramid import FeaturePyramid, ImageGenerator, recording_features
from engine.settings.inversion import NaturalInversion

BETAS = (0.5, 0.999)


def natural_inversion(
    classifier: Classifier,
    labels: Sequence[int],
    generator: Generator,
    settings: NaturalInversion = NaturalInversion(),
    student: Classifier | None = None,  # noqa: ARG001
    on_iteration: OnIteration | None = None,
) -> Tensor:
    """Images (N, 3, H, W) in [0, 1] of these classes, at the classifier's input size. student: of no use here."""
    canvas = Canvas(classifier)
    reader = read_at(classifier, canvas.size)
    watch = Watch(settings.iterations, labels, on_iteration)
    target = torch.tensor(labels, device=classifier.device)
    z = torch.randn(len(labels), settings.latent, generator=generator).to(classifier.device)
    known = feature_statistics(classifier)
    drawer, pyramid = _networks(reader, known.taps, canvas.size, settings, generator)
    scaling = torch.ones(1, 3, 1, 1, device=classifier.device, requires_grad=True)

    def draw() -> Tensor:
        pixels = drawer(z)
        with recording_features(known.taps) as features:
            reader.logits(canvas.images(pixels))
            return scaling * pyramid(pixels, [f.float() for f in features.values()])

    with Domain.of(classifier.network, known).watched() as l_bn:

        def loss() -> Tensor:
            x = draw()
            value = settings.class_weight * cross_entropy(reader.logits(canvas.images(x)), target)
            value = value + settings.bn_weight * l_bn()
            return (
                value + settings.tv_weight * total_variation(x) + settings.l2_weight * image_norm(x)
            )

        groups = [
            {"params": list(drawer.parameters()), "lr": settings.generator_rate},
            {"params": list(pyramid.parameters()), "lr": settings.pyramid_rate},
            {"params": [scaling], "lr": settings.scaling_rate},
        ]
        descend(groups, loss, settings.iterations, BETAS, watch)
        with torch.no_grad():
            return canvas.finished(draw())


def feature_statistics(classifier: Classifier) -> Statistics:
    """The statistics whose taps the pyramid reads features at. Raises ModelError where it cannot read them."""
    method = f"method {NaturalInversion.name!r}"
    known = statistics_of(classifier, method, "choose 'plugin-inversion'")
    if any(tap.axis != 1 or tap.of != "input" for tap in known.taps):
        raise ModelError(
            f"{method} reads maps (N, C, H, W) where layers read them, and statistics {known.source!r} of classifier "
            f"{classifier.name!r} are of tokens or outputs too, expected those of BatchNorm or GroupNorm layers: name "
            "such `layers` to `ddis statistics`, or choose 'plugin-inversion'."
        )
    return known


def _networks(
    classifier: Classifier,
    taps: Sequence[Tap],
    size: tuple[int, int],
    settings: NaturalInversion,
    generator: Generator,
) -> tuple[nn.Module, nn.Module]:
    """A new generator and pyramid, initialised from `generator` alone; the process's own random state stays."""
    with torch.no_grad(), recording_features(taps) as features:
        classifier.logits(torch.zeros(1, 3, *size, device=classifier.device))
        channels = [feature.shape[1] for feature in features.values()]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(int(torch.randint(2**62, (), generator=generator)))
        drawer = ImageGenerator(size, settings.latent, settings.width)
        pyramid = FeaturePyramid(channels, settings.width)
    return drawer.to(classifier.device).train(), pyramid.to(classifier.device).train()


def check(
    classifier: Classifier,
    settings: NaturalInversion,  # noqa: ARG001
    student: Classifier | None,  # noqa: ARG001
) -> None:
    """Raise ConfigError or ModelError where NaturalInversion cannot work on this classifier."""
    feature_statistics(classifier)


METHOD = InversionMethod(natural_inversion, check)
