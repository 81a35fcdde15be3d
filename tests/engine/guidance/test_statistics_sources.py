"""Guidance by other statistics than BatchNorm's: gradients against autograd or another network, losses that fall."""

from collections.abc import Callable
from copy import deepcopy
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from engine.classifiers import Classifier, Preprocess, load_classifier
from engine.classifiers.base import statistics_of
from engine.classifiers.cifar_resnet import CifarResNet
from engine.classifiers.statistics import ImageTerm, Statistics, Tap
from engine.classifiers.statistics.patch_entropy import entropy
from engine.errors import ConfigError, ModelError
from engine.evaluation.export_statistics import ExactStatisticsWarning, export_statistics
from engine.guidance.domain import judged
from engine.guidance.moments import recording_moments
from engine.guidance.objective import Objective
from engine.methods.natural_inversion import feature_statistics
from engine.settings import Alignment
from engine.settings.statistics import StatisticsExport
from engine.types import Moments
from tests.engine.without_batch_norm import convnext, vit

READS = Preprocess.squash(16)
CHANNELS = Alignment(layers="channels", class_weight=0.0)


def folded(network: CifarResNet) -> CifarResNet:
    """A copy whose BatchNorm layers are inside its convolutions."""
    twin = deepcopy(network)
    for holder in [part for part in twin.modules() if hasattr(part, "bn1")]:
        for conv, bn in (("conv1", "bn1"), ("conv2", "bn2")):
            if hasattr(holder, bn):
                setattr(holder, conv, fuse_conv_bn_eval(getattr(holder, conv), getattr(holder, bn)))
                setattr(holder, bn, nn.Identity())
    return twin


def loaded(network: nn.Module, statistics: str = "none", classes: int = 7) -> Classifier:
    labels = [f"class {number}" for number in range(classes)]
    return load_classifier(
        network, labels=labels, preprocess=READS, device="cpu", statistics=statistics
    )


def with_statistics(classifier: Classifier, taps: list[Tap], stored: list[Moments]) -> Classifier:
    known = Statistics(source="file:test", taps=tuple(taps), stored=tuple(stored))
    return replace(classifier, statistics=known)


def behind_batch_norm(stored: Moments, layer: nn.BatchNorm2d) -> Moments:
    """What a BatchNorm layer gives, of what it reads."""
    scale = layer.weight / (layer.running_var + layer.eps).sqrt()
    shift = layer.bias - layer.running_mean * scale
    return Moments((stored.mean * scale + shift).detach(), (stored.var * scale**2).detach())


@pytest.fixture
def pair(tiny_resnet: CifarResNet) -> tuple[Classifier, Classifier]:
    """A ResNet guided by its BatchNorm layers, and the same one folded, with the same knowledge at its convolutions."""
    with torch.no_grad():
        for layer in tiny_resnet.modules():
            if isinstance(layer, nn.BatchNorm2d):
                nn.init.uniform_(layer.weight, 0.3, 2.0)
                nn.init.normal_(layer.bias)
    whole, bare = loaded(tiny_resnet, "batch-norm"), loaded(folded(tiny_resnet))
    convolutions = [part for part in bare.network.modules() if isinstance(part, nn.Conv2d)]
    stored = [
        behind_batch_norm(one, tap.layer)
        for one, tap in zip(whole.statistics.stored, whole.statistics.taps, strict=True)
    ]
    taps = [Tap(layer, of="output", overwritten=True) for layer in convolutions]
    return whole, with_statistics(bare, taps, stored)


@pytest.mark.parametrize("statistics", ["batch", "image"])
@pytest.mark.parametrize("norm", ["l2", "l2_squared"])
def test_a_folded_network_has_the_gradient_of_the_unfolded_one(
    pair: tuple[Classifier, Classifier], statistics: str, norm: str
) -> None:
    images, classes = torch.rand(6, 3, 16, 16), torch.arange(6)
    settings = Alignment(layers="channels", statistics=statistics, norm=norm)
    (value, grad), (found, other) = (
        Objective(one, settings).value_and_grad(images, classes) for one in pair
    )
    torch.testing.assert_close(found, value, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(other, grad, rtol=1e-3, atol=2e-5 * float(grad.abs().max()))
    assert grad.abs().max() > 0


def test_in_the_units_of_layers_folding_changes_the_weight_of_channels(
    pair: tuple[Classifier, Classifier],
) -> None:
    """Why `layers="channels"` is there: a folded layer's channels are scaled each by its own factor."""
    images = torch.rand(6, 3, 16, 16)
    values = [Objective(one, Alignment(class_weight=0.0)).value(images) for one in pair]
    assert not torch.allclose(*values, rtol=0.02)


def test_one_scale_in_each_layer_folds_without_a_change_in_the_default_units(
    tiny_resnet: CifarResNet,
) -> None:
    with torch.no_grad():
        for layer in tiny_resnet.modules():
            if isinstance(layer, nn.BatchNorm2d):
                layer.weight.copy_(1.7 * (layer.running_var + layer.eps).sqrt())
    whole, bare = loaded(tiny_resnet, "batch-norm"), loaded(folded(tiny_resnet))
    stored = [
        behind_batch_norm(one, tap.layer)
        for one, tap in zip(whole.statistics.stored, whole.statistics.taps, strict=True)
    ]
    taps = [Tap(one, of="output") for one in bare.network.modules() if isinstance(one, nn.Conv2d)]
    images, classes = torch.rand(6, 3, 16, 16), torch.arange(6)
    (_, grad), (_, other) = (
        Objective(one, Alignment()).value_and_grad(images, classes)
        for one in (whole, with_statistics(bare, taps, stored))
    )
    torch.testing.assert_close(other, grad, rtol=1e-3, atol=2e-5 * float(grad.abs().max()))


def test_a_folded_network_with_an_exported_file_is_guided_as_its_batch_norm_guided(
    tmp_path: Path, tiny_resnet: CifarResNet
) -> None:
    """BatchNorm stores the moments of some images; folded, the network has them measured on these, into a file."""
    pixels = torch.randint(0, 256, (24, 3, 16, 16), dtype=torch.uint8)
    for number, image in enumerate(pixels):
        Image.fromarray(image.permute(1, 2, 0).numpy()).save(tmp_path / f"{number:02}.png")
    _stores_moments_of(tiny_resnet, READS(pixels / 255))
    whole, bare = loaded(tiny_resnet, "batch-norm"), loaded(folded(tiny_resnet))
    file = tmp_path / "folded.safetensors"
    with pytest.warns(ExactStatisticsWarning):
        export_statistics(bare, tmp_path, file, StatisticsExport(layers=("*conv*:output",)))
    guided = loaded(bare.network, f"file:{file}")
    images, classes = torch.rand(6, 3, 16, 16), torch.arange(6)
    (value, grad), (found, other) = (
        Objective(one, Alignment(layers="channels")).value_and_grad(images, classes)
        for one in (whole, guided)
    )
    torch.testing.assert_close(found, value, rtol=1e-3, atol=1e-5)
    torch.testing.assert_close(other, grad, rtol=2e-3, atol=1e-3 * float(grad.abs().max()))
    wrong = Objective(guided, Alignment(layers="uniform")).value_and_grad(images, classes)[1]
    assert not torch.allclose(wrong, grad, rtol=0.05, atol=0.05 * float(grad.abs().max()))


def _stores_moments_of(network: CifarResNet, seen: Tensor) -> None:
    """Let each BatchNorm layer store the moments of what it reads of these images, once those before it do."""
    for layer in [part for part in network.modules() if isinstance(part, nn.BatchNorm2d)]:
        read: list[Tensor] = []
        hook = layer.register_forward_pre_hook(lambda _, inputs, read=read: read.append(inputs[0]))
        with torch.no_grad():
            network(seen)
            layer.running_mean.copy_(read[0].mean((0, 2, 3)))
            layer.running_var.copy_(read[0].var((0, 2, 3), correction=0))
        hook.remove()


def test_units_of_channels_are_their_stored_deviations(classifier: Classifier) -> None:
    images = torch.rand(6, 3, 16, 16)
    with torch.no_grad(), recording_moments(classifier.statistics.taps) as taken:
        classifier.logits(images)
        measured = list(taken)
    expected = sum(
        float(((m.mean - s.mean).square() / s.var).mean() + (m.var / s.var - 1).square().mean())
        for m, s in zip(measured, classifier.statistics.stored, strict=True)
    )
    assert Objective(classifier, CHANNELS).value(images).item() == pytest.approx(expected, rel=1e-4)


def test_a_dead_channel_does_not_rule_the_loss(classifier: Classifier) -> None:
    first, *others = classifier.statistics.stored
    dead = Moments(first.mean, torch.cat([torch.zeros(1), first.var[1:]]))
    known = replace(classifier.statistics, stored=(dead, *others))
    value, grad = Objective(replace(classifier, statistics=known), CHANNELS).value_and_grad(
        torch.rand(4, 3, 16, 16)
    )
    assert value.isfinite().all()
    assert grad.isfinite().all()


@pytest.mark.parametrize("part", [2, 5])
def test_parts_of_a_batch_have_its_gradient(pair: tuple[Classifier, Classifier], part: int) -> None:
    images, classes = torch.rand(7, 3, 16, 16), torch.arange(7)
    objective = Objective(pair[1], Alignment(layers="channels"))
    values, grad = objective.value_and_grad(images, classes)
    found, in_parts = objective.value_and_grad(images, classes, part)
    torch.testing.assert_close(found, values, rtol=1e-4, atol=0)
    torch.testing.assert_close(in_parts, grad, rtol=0, atol=2e-4 * float(grad.abs().max()))


@pytest.mark.parametrize("of", ["input", "output"])
def test_what_the_network_overwrites_is_measured_as_it_was(of: str) -> None:
    class Overwriting(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.same = nn.Conv2d(3, 4, 3), nn.Identity()

        def forward(self, x: Tensor) -> Tensor:
            y = self.same(self.conv(x)) if of == "input" else self.conv(x)
            y.add_(1).mul_(2)
            return y.mean((2, 3))

    classifier = loaded(Overwriting(), classes=4)
    layer = classifier.network.same if of == "input" else classifier.network.conv
    tap, stored = Tap(layer, 1, of, True), Moments(torch.zeros(4), torch.ones(4))
    images = torch.rand(3, 3, 16, 16)
    settings = Alignment(layers="uniform", norm="l2_squared", class_weight=0)
    _, grad = Objective(with_statistics(classifier, [tap], [stored]), settings).value_and_grad(
        images
    )
    leaf = images.clone().requires_grad_()
    y = classifier.network.conv(READS(leaf))
    loss = y.mean((0, 2, 3)).square().sum() + (y.var((0, 2, 3), correction=0) - 1).square().sum()
    torch.testing.assert_close(grad, torch.autograd.grad(loss, leaf)[0], rtol=1e-4, atol=1e-6)


def test_energy_is_the_negative_logsumexp(classifier: Classifier) -> None:
    images, classes = torch.rand(5, 3, 16, 16), torch.arange(5)
    for source, tau in (("energy", 1.0), ("energy:2", 2.0)):
        one = loaded(classifier.network, source)
        assert isinstance(one.statistics, ImageTerm)
        assert one.describe()["statistics"] == f"energy:{tau:g}"
        settings = Alignment(domain_weight=0.7, class_weight=0.5)
        value, grad = Objective(one, settings).value_and_grad(images, classes)
        leaf = images.clone().requires_grad_()
        logits = one.logits(leaf)
        loss = -0.7 * tau * (logits / tau).exp().sum(1).log().mean()
        loss = loss + 0.5 * nn.functional.cross_entropy(logits, classes)
        torch.testing.assert_close(value, loss.detach().reshape(1))
        torch.testing.assert_close(grad, torch.autograd.grad(loss, leaf)[0], rtol=1e-4, atol=1e-7)
        in_parts = Objective(one, settings).value_and_grad(images, classes, 2)
        torch.testing.assert_close(in_parts, (value, grad), rtol=1e-4, atol=1e-6)
        each = Objective(one, replace(settings, statistics="image")).value(images, classes)
        torch.testing.assert_close(each.mean().reshape(1), value)
        assert judged(one, images)[1].isnan().all()


def test_energy_alone_needs_no_classes(classifier: Classifier) -> None:
    one = loaded(classifier.network, "energy")
    images = torch.rand(3, 3, 16, 16)
    expected = -one.logits(images).logsumexp(1).mean().reshape(1)
    torch.testing.assert_close(Objective(one, Alignment()).value(images), expected)


@pytest.mark.parametrize("tau", ["0", "-1", "nan", "hot"])
def test_a_temperature_is_a_number_above_0(classifier: Classifier, tau: str) -> None:
    with pytest.raises(ConfigError, match=f"is 'energy:{tau}', expected a temperature above 0"):
        loaded(classifier.network, f"energy:{tau}")


def test_what_needs_moments_says_that_energy_has_none(classifier: Classifier) -> None:
    one = loaded(classifier.network, "energy")
    with pytest.raises(
        ModelError,
        match=r"this needs statistics .* 'energy', which know its logits alone, expected the moments .* set `stat",
    ):
        statistics_of(one, "this", "go")


def density_by_hand(similar: Tensor) -> float:
    """H as the paper writes it, point by point."""
    points = torch.linspace(float(similar.min()), float(similar.max()), 10)
    kernel = torch.distributions.Normal(0.0, 0.01)
    p = torch.stack([kernel.log_prob(x - similar).exp().mean() for x in points])
    return -float(torch.trapezoid(p * p.clamp_min(1e-30).log(), points))


def test_patch_entropy_is_that_of_its_paper() -> None:
    patches = torch.randn(3, 9, 5)
    found = entropy(patches)
    for one, value in zip(patches, found, strict=True):
        unit = one / one.norm(dim=1, keepdim=True)
        assert value.item() == pytest.approx(density_by_hand((unit @ unit.T).flatten()), rel=1e-3)


def test_patch_entropy_reads_a_vits_attention() -> None:
    one = loaded(vit(7), "patch-entropy")
    images = torch.rand(4, 3, 16, 16)
    read: list[Tensor] = []
    layers = [part for name, part in one.network.named_modules() if name.endswith("o_proj")]
    hooks = [layer.register_forward_pre_hook(lambda _, x: read.append(x[0])) for layer in layers]
    one.logits(images)
    for hook in hooks:
        hook.remove()
    expected = -sum(entropy(x[:, 1:].reshape(4, 16, 2, 8).mean(2)) for x in read)
    settings = Alignment(class_weight=0, statistics="image")
    value, grad = Objective(one, settings).value_and_grad(images)
    torch.testing.assert_close(value, expected.detach(), rtol=1e-4, atol=1e-5)
    assert grad.isfinite().all()
    assert grad.abs().max() > 0
    assert not any(part._forward_pre_hooks for part in one.network.modules())
    twin = one.with_network(deepcopy(one.network))
    torch.testing.assert_close(Objective(twin, settings).value(images), value)


def test_patch_entropy_without_attention_is_absent(classifier: Classifier) -> None:
    one = loaded(classifier.network, "patch-entropy")
    with pytest.raises(
        ModelError, match=r"runs no attention over a square .* a vision transformer"
    ):
        Objective(one, Alignment())
    with pytest.raises(ConfigError, match="is 'patch-entropy:2', expected 'patch-entropy' alone"):
        loaded(classifier.network, "patch-entropy:2")


def test_natural_inversion_refuses_statistics_of_tokens(classifier: Classifier) -> None:
    tap = Tap(classifier.network.conv1, of="output")
    stored = Moments(torch.zeros(4), torch.ones(4))
    with pytest.raises(ModelError, match=r"'natural-inversion' reads maps .* choose 'plugin-inver"):
        feature_statistics(with_statistics(classifier, [tap], [stored]))


@pytest.mark.parametrize("build", [vit, convnext])
@pytest.mark.parametrize("source", ["file", "energy"])
def test_descent_lowers_the_loss_of_networks_without_batch_norm(
    build: Callable[[int], nn.Module], source: str, tmp_path
) -> None:
    from engine.evaluation.layer_moments import chosen_calls

    one = loaded(build(7), "energy" if source == "energy" else "none")
    if source == "file":
        taps = [call.tap(one.network) for call in chosen_calls(one, None)]
        with torch.no_grad(), recording_moments(taps) as taken:
            one.logits(torch.rand(32, 3, 16, 16) ** 2)
            one = with_statistics(one, taps, list(taken))
    objective = Objective(one, Alignment(class_weight=0.0, layers="channels"))
    images = torch.rand(8, 3, 16, 16)
    before = objective.value(images).item()
    for _ in range(12):
        _, grad = objective.value_and_grad(images)
        images = (images - 0.02 * grad / grad.square().mean().sqrt()).clamp(0, 1)
    after = objective.value(images).item()
    assert after < (0.6 * before if source == "file" else before - 0.01)
