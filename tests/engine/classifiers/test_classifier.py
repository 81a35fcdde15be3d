"""A classifier's frozen network, its preprocessing, and the BatchNorm statistics that it stored."""

import copy
import sys
from types import ModuleType

import pytest
import torch
from torch import nn

from engine.classifiers import Classifier, Preprocess, load_classifier
from engine.classifiers.base import statistics_of
from engine.classifiers.cifar_resnet import CifarResNet
from engine.classifiers.statistics import (
    Absent,
    Examined,
    ImageTerm,
    Statistics,
    Tap,
    find_statistics,
)
from engine.errors import ConfigError, ModelError
from engine.settings.sources import FILE, STATISTICS, StatisticsEntry
from engine.types import Moments

LABELS = ("dog", "elephant", "giraffe", "guitar", "horse", "house", "person")
SMALL = Preprocess.squash(16)


class FrozenBatchNorm2d(nn.Module):
    """As torchvision and transformers write it: buffers only, no child of torch's BatchNorm."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.register_buffer("running_mean", torch.full((width,), 0.5))
        self.register_buffer("running_var", torch.full((width,), 2.0))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return (x - self.running_mean.view(-1, 1, 1)) / self.running_var.view(-1, 1, 1).sqrt()


class ActingBatchNorm(nn.BatchNorm2d):
    """As timm's BatchNormAct2d: a child with an activation in it."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x).relu()


class Zoo(nn.Module):
    """Every kind of BatchNorm; one runs twice, one never, and not in the order of their definition."""

    def __init__(self) -> None:
        super().__init__()
        self.flat = nn.BatchNorm1d(4)
        self.never = nn.BatchNorm2d(4)
        self.twice = nn.BatchNorm2d(3)
        self.frozen = FrozenBatchNorm2d(3)
        self.acting = ActingBatchNorm(3)
        self.sync = nn.SyncBatchNorm(3)
        self.head = nn.Linear(3, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.sync(self.acting(self.frozen(self.twice(self.twice(x)))))
        return self.flat(self.head(x.mean((2, 3))))


def test_batch_norms_of_every_kind_are_found_in_call_order() -> None:
    zoo = Zoo()
    classifier = load_classifier(zoo, labels=list("abcd"), preprocess=SMALL, device="cpu")
    names = {layer: name for name, layer in classifier.network.named_modules()}
    called = [names[tap.layer] for tap in classifier.statistics.taps]
    assert called == ["twice", "twice", "frozen", "acting", "sync", "flat"]
    assert [len(stored.mean) for stored in classifier.statistics.stored] == [3, 3, 3, 3, 3, 4]
    assert classifier.statistics.stored[2].var.tolist() == [2, 2, 2]


def test_stored_moments_are_the_running_statistics(tiny_resnet: CifarResNet) -> None:
    classifier = load_classifier(tiny_resnet, labels=LABELS, preprocess=SMALL, device="cpu")
    first, last = tiny_resnet.bn1, tiny_resnet.layer3[0].bn2
    assert len(classifier.statistics.stored) == 7
    assert torch.equal(classifier.statistics.stored[0].mean, first.running_mean)
    assert torch.equal(classifier.statistics.stored[-1].var, last.running_var)


def test_a_module_is_copied_and_the_copy_frozen(tiny_resnet: CifarResNet) -> None:
    tiny_resnet.train()
    classifier = load_classifier(tiny_resnet, labels=LABELS, preprocess=SMALL, device="cpu")
    assert tiny_resnet.training
    assert all(weight.requires_grad for weight in tiny_resnet.parameters())
    assert not classifier.network.training
    assert not any(weight.requires_grad for weight in classifier.network.parameters())
    assert not any(layer._forward_pre_hooks for layer in classifier.network.modules())


def test_logits_are_those_of_the_network_and_pass_a_gradient(tiny_resnet: CifarResNet) -> None:
    classifier = load_classifier(tiny_resnet, labels=LABELS, preprocess=SMALL, device="cpu")
    images = torch.rand(2, 3, 16, 16, requires_grad=True)
    logits = classifier.logits(images)
    mean, std = torch.tensor(SMALL.mean).view(3, 1, 1), torch.tensor(SMALL.std).view(3, 1, 1)
    assert torch.equal(logits, tiny_resnet((images - mean) / std))
    (gradient,) = torch.autograd.grad(logits.sum(), images)
    assert gradient.abs().sum() > 0
    assert classifier.logits(torch.rand(1, 3, 40, 40)).shape == (1, 7)
    assert classifier.input_px == 16


def test_fingerprints_tell_weights_labels_and_preprocessing_apart(tiny_resnet: CifarResNet) -> None:
    def fingerprint(labels: tuple[str, ...] = LABELS, preprocess: Preprocess = SMALL) -> str:
        return load_classifier(
            tiny_resnet, labels=labels, preprocess=preprocess, device="cpu"
        ).fingerprint

    first = fingerprint()
    assert fingerprint() == first
    others = {fingerprint(LABELS[::-1]), fingerprint(preprocess=Preprocess.squash(20))}
    tiny_resnet.bn1.running_mean += 1
    assert len({first, *others, fingerprint()}) == 4


class Idle(nn.Module):
    """A network whose BatchNorm layer never runs, and which has no other weights."""

    def __init__(self) -> None:
        super().__init__()
        self.bn = nn.BatchNorm2d(3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.amax((2, 3))


@pytest.mark.parametrize(
    ("network", "wording"),
    [
        (
            nn.Conv2d(3, 3, 1),
            r"classifier 'Sequential' has no BatchNorm layers, expected at least one .*: have its owner run `ddis "
            r"statistics` .*\. To go on without them, wait",
        ),
        (
            nn.BatchNorm2d(3, track_running_stats=False),
            r"has 1 of 1 BatchNorm layers without running statistics \(first: 0\), expected running_mean .* train mode",
        ),
        (Idle(), "runs none of its 1 BatchNorm layers in evaluation mode, expected at least one"),
        (nn.ReLU(), "has no BatchNorm layers"),
    ],
    ids=["folded", "without-running-statistics", "never-run", "no-weights"],
)
def test_networks_without_statistics_load_and_say_what_they_lack(
    network: nn.Module, wording: str
) -> None:
    last = [nn.AdaptiveAvgPool2d(1), nn.Flatten()] if not isinstance(network, Idle) else []
    body = nn.Sequential(network, *last)
    classifier = load_classifier(body, labels=list("abc"), preprocess=SMALL, device="cpu")
    images = torch.rand(2, 3, 16, 16)
    torch.testing.assert_close(classifier.logits(images), body.eval()(SMALL(images)))
    assert classifier.device == torch.device("cpu")
    with pytest.raises(ModelError, match=f"walking needs statistics of .*{wording}"):
        statistics_of(classifier, "walking", "wait")


def test_statistics_come_from_a_named_source(tiny_resnet: CifarResNet) -> None:
    def load(statistics: str) -> Classifier:
        return load_classifier(
            tiny_resnet, labels=LABELS, preprocess=SMALL, device="cpu", statistics=statistics
        )

    assert statistics_of(load("batch-norm"), "this", "go").source == "batch-norm"
    with pytest.raises(ModelError, match="was loaded without statistics, expected some: set"):
        statistics_of(load("none"), "this", "go")
    with pytest.raises(
        ConfigError, match=r"is 'batchnorm', expected one of 'batch-norm', .*Did you mean 'batch-n"
    ):
        load("batchnorm")
    with pytest.raises(ConfigError, match="is 'batch-norm:here', expected 'batch-norm' alone"):
        load("batch-norm:here")


def test_every_source_of_the_registry_is_there(tiny_resnet: CifarResNet) -> None:
    for name in STATISTICS.keys() - {FILE}:
        blank = Examined(tiny_resnet.eval(), lambda: tiny_resnet(torch.rand(1, 3, 8, 8)), SMALL)
        assert isinstance(find_statistics(name, blank), Statistics | ImageTerm | Absent)


def test_a_new_source_is_a_function_and_an_entry(
    tiny_resnet: CifarResNet, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unit(examined: Examined, argument: str) -> Statistics:
        layer = examined.network.get_submodule(argument)
        unit_normal = Moments(torch.zeros(layer.in_features), torch.ones(layer.in_features))
        tap = Tap(layer)
        return Statistics(source=f"unit:{argument}", taps=(tap,), stored=(unit_normal,))

    module = ModuleType("unit_normal")
    module.unit = unit
    monkeypatch.setitem(sys.modules, module.__name__, module)
    entry = StatisticsEntry("unit_normal:unit", "unit, zero and one everywhere")
    monkeypatch.setitem(STATISTICS, "unit", entry)
    classifier = load_classifier(
        tiny_resnet, labels=LABELS, preprocess=SMALL, device="cpu", statistics="unit:linear"
    )
    assert classifier.statistics.taps == (Tap(classifier.network.linear),)
    assert classifier.describe()["statistics"] == "unit:linear"


def test_statistics_follow_a_copy_of_the_network(tiny_resnet: CifarResNet) -> None:
    classifier = load_classifier(tiny_resnet, labels=LABELS, preprocess=SMALL, device="cpu")
    twin = classifier.with_network(copy.deepcopy(classifier.network).half(), torch.float16)
    assert [tap.layer for tap in twin.statistics.taps] == [
        layer for layer in twin.network.modules() if isinstance(layer, nn.BatchNorm2d)
    ]
    assert twin.dtype == torch.float16
    assert "statistics" not in twin.describe()


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -1.0])
def test_broken_statistics_are_refused(tiny_resnet: CifarResNet, value: float) -> None:
    tiny_resnet.layer2[0].bn1.running_var[0] = value
    with pytest.raises(
        ModelError, match=r"1 BatchNorm layers .*first: layer2.0.bn1.*Load another checkpoint"
    ):
        load_classifier(tiny_resnet, labels=LABELS, preprocess=SMALL, device="cpu")


@pytest.mark.parametrize(
    ("labels", "wording"),
    [
        (None, "without class names, expected 7: set `labels`"),
        (LABELS[:6], "7 outputs and 6 labels, expected as many"),
        ((*LABELS[:6], " "), "label 6 .* is empty, expected a name"),
        ((*LABELS[:6], "dog"), "'dog' more than once, expected distinct names"),
    ],
    ids=["none", "too-few", "empty", "doubled"],
)
def test_labels_that_do_not_fit_are_refused(
    tiny_resnet: CifarResNet, labels: tuple[str, ...] | None, wording: str
) -> None:
    with pytest.raises(ConfigError, match=wording):
        load_classifier(tiny_resnet, labels=labels, preprocess=SMALL, device="cpu")


def test_a_module_without_preprocessing_or_logits_is_refused(tiny_resnet: CifarResNet) -> None:
    with pytest.raises(
        ConfigError, match="without preprocessing, expected what it was trained with"
    ):
        load_classifier(tiny_resnet, labels=LABELS, device="cpu")
    with pytest.raises(
        ModelError, match=r"returned a Tensor of shape \(1, 3, 16, 16\), expected logits \(N, K\)"
    ):
        load_classifier(nn.BatchNorm2d(3), labels=list("abc"), preprocess=SMALL, device="cpu")


@pytest.mark.parametrize("depth", [7, 2, 21])
def test_depths_that_no_cifar_resnet_has_are_refused(depth: int) -> None:
    with pytest.raises(ConfigError, match=rf"depth .* is {depth}, expected 6 n \+ 2"):
        CifarResNet(depth)


def test_widths_that_shrink_are_refused() -> None:
    with pytest.raises(
        ConfigError, match=r"\(8, 4, 4\), expected three positive numbers that do not shrink"
    ):
        CifarResNet(8, (8, 4, 4))
