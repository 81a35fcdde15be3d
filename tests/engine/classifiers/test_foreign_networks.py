"""Networks as other people wrote them: what they read, what they give, and numbers that cannot be used."""

import re
import warnings
from collections.abc import Callable
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import log_softmax, softmax
from transformers import LevitConfig, LevitForImageClassification

from engine.classifiers import Classifier, Preprocess, load_classifier
from engine.classifiers.statistics import Absent, Statistics
from engine.errors import ClassifierWarning, ConfigError, ModelError
from engine.guidance.domain import Domain, judged
from engine.guidance.moments import recording_moments
from engine.guidance.objective import check_statistics
from engine.settings import Alignment

LABELS = ["dog", "horse", "house"]
READS = Preprocess.squash(16)


def network(channels: int = 3, classes: int = 3) -> nn.Sequential:
    """A trained-looking network with one BatchNorm layer."""
    layers = nn.Sequential(
        nn.Conv2d(channels, 8, 3, padding=1),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(8, classes),
    )
    layers[1].running_mean.uniform_(-1, 1)
    layers[1].running_var.uniform_(0.5, 2)
    return layers.eval()


def loaded(of: object, labels: object = LABELS, **asked: object) -> Classifier:
    return load_classifier(of, labels=labels, preprocess=READS, device="cpu", **asked)


class Ends(nn.Module):
    """A network with something done to its scores."""

    def __init__(self, end: Callable[[Tensor], object], classes: int = 3) -> None:
        super().__init__()
        self.body, self.end = network(classes=classes), end

    def forward(self, x: Tensor) -> object:
        return self.end(self.body(x))


SOFTMAX = {
    "layer": nn.Softmax(1),
    "function": lambda z: softmax(z, -1),
    "method": lambda z: z.softmax(dim=1),
    "named": lambda z: SimpleNamespace(logits=torch.softmax(input=z, dim=1)),
    "dictionary": lambda z: {"logits": z.softmax(1), "features": torch.zeros(1)},
    "map": lambda z: z.softmax(1)[..., None, None],
    "per cent": lambda z: z.softmax(1) * 100,
}
SIGMOID = {
    "layer": nn.Sigmoid(),
    "function": torch.sigmoid,
    "in-place": lambda z: z.clone().sigmoid_(),
    "per cent": lambda z: 100 * z.sigmoid(),
    "clamped": lambda z: z.sigmoid().clamp(1e-6, 1 - 1e-6),
}


@pytest.mark.parametrize("end", SOFTMAX.values(), ids=SOFTMAX)
def test_what_stands_before_a_softmax_is_taken_for_the_logits(end: Callable) -> None:
    whole = Ends(end)
    with pytest.warns(
        ClassifierWarning, match=r"gives probabilities \(softmax\): what it has before"
    ):
        classifier = loaded(whole)
    images = torch.rand(2, 3, 16, 16)
    assert torch.equal(classifier.logits(images), whole.body(READS(images)))


@pytest.mark.parametrize("end", SIGMOID.values(), ids=SIGMOID)
def test_what_stands_before_a_sigmoid_is_taken_for_the_logits(end: Callable) -> None:
    whole = Ends(end)
    with pytest.warns(ClassifierWarning, match=r"\(sigmoid\).*need not exclude each other"):
        classifier = loaded(whole)
    images = torch.rand(2, 3, 16, 16)
    assert torch.equal(classifier.logits(images), whole.body(READS(images)))


def test_probabilities_that_cannot_be_undone_become_their_logarithms() -> None:
    for whole, function in (
        (Ends(lambda z: z.exp() / z.exp().sum(1, keepdim=True)), "softmax"),
        (torch.jit.trace(Ends(nn.Softmax(1)), torch.zeros(1, 3, 16, 16)), "softmax"),
        (torch.jit.trace(Ends(nn.Sigmoid()), torch.zeros(1, 3, 16, 16)), "sigmoid"),
    ):
        with pytest.warns(ClassifierWarning, match=rf"\({function}\): their logarithms"):
            classifier = loaded(whole)
        images = torch.rand(2, 3, 16, 16, requires_grad=True)
        logits = classifier.logits(images)
        made = {"softmax": lambda z: z.softmax(1), "sigmoid": Tensor.sigmoid}[function](logits)
        torch.testing.assert_close(made, whole(READS(images)))
        assert torch.autograd.grad(logits[:, 0].sum(), images)[0].any()


@pytest.mark.parametrize(
    "end", [lambda z: z, lambda z: log_softmax(z, 1), nn.Softplus(), lambda z: z * z.sigmoid()]
)
def test_scores_that_are_no_probabilities_are_left_alone(end: Callable) -> None:
    whole = Ends(end)
    with warnings.catch_warnings():
        warnings.simplefilter("error", ClassifierWarning)
        classifier = loaded(whole)
    images = torch.rand(2, 3, 16, 16)
    assert torch.equal(classifier.logits(images), whole(READS(images)))


@pytest.mark.parametrize(
    "end",
    [
        lambda z: 1 / (1 + torch.exp(-z)),
        lambda z: 100 * z.exp() / z.exp().sum(1, keepdim=True),
        lambda z: 100 / (1 + torch.exp(-z)),
        lambda z: nn.functional.pad(z, (0, 1)).softmax(1)[:, :3],
        lambda z: z.sigmoid() * 100 + 1,
    ],
    ids=["own", "softmax in per cent", "sigmoid in per cent", "cut", "moved"],
)
def test_probabilities_that_are_not_recognised_are_warned_of(end: Callable) -> None:
    whole = Ends(end)
    with pytest.warns(ClassifierWarning, match=r"from .* to .*, like probabilities.*wrap it"):
        loaded(whole, LABELS)


@pytest.mark.parametrize("end", [lambda z: z.abs(), lambda z: z * 0, lambda z: z.relu() + 0.1])
def test_scores_above_0_that_grow_with_the_image_are_left_alone(end: Callable) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error", ClassifierWarning)
        loaded(Ends(end))


@pytest.mark.parametrize("end", [lambda z: z, torch.sigmoid], ids=["logit", "sigmoid"])
def test_one_score_tells_two_classes_apart(end: Callable) -> None:
    whole = Ends(end, classes=1)
    with pytest.warns(
        ClassifierWarning, match="low ones are taken for 'cat' and high ones for 'dog'"
    ):
        classifier = loaded(whole, ["cat", "dog"])
    images = torch.rand(2, 3, 16, 16)
    chance = classifier.logits(images).softmax(1)[:, 1:]
    torch.testing.assert_close(chance, whole.body(READS(images)).sigmoid())
    for labels in (["dog"], LABELS):
        with pytest.raises(ConfigError, match=r"has 1 output and . labels?, expected two labels"):
            loaded(Ends(end, classes=1), labels)


@pytest.mark.parametrize(
    "end",
    [
        lambda z: z[..., None, None],
        lambda z: (z, torch.zeros(1, 4, 2, 2)),
        lambda z: {"scores": z},
        lambda z: SimpleNamespace(logits=z),
        lambda z: [z],
    ],
    ids=["map", "tuple", "dictionary", "object", "list"],
)
def test_scores_are_found_in_whatever_a_network_gives(end: Callable) -> None:
    whole = Ends(end)
    images = torch.rand(2, 3, 16, 16)
    assert torch.equal(loaded(whole).logits(images), whole.body(READS(images)))


@pytest.mark.parametrize(
    ("end", "wording"),
    [
        (lambda z: z.mean(), r"returned a Tensor of shape \(\), expected logits \(N, K\)"),
        (lambda z: z[:, :, None].expand(-1, -1, 5), r"Tensor of shape \(1, 3, 5\)"),
        (lambda z: (z, z), "returned 2 values, of which 2 could be class scores"),
        (lambda z: "dog", "returned a str, expected logits"),
        (lambda z: None, "returned a NoneType"),
    ],
    ids=["scalar", "map", "two", "text", "nothing"],
)
def test_networks_without_class_scores_are_refused(end: Callable, wording: str) -> None:
    with pytest.raises(ModelError, match=wording):
        loaded(Ends(end))


def test_a_network_of_grey_images_gets_the_brightness() -> None:
    grey = network(1)
    with pytest.warns(ClassifierWarning, match="reads grey images"):
        classifier = load_classifier(
            grey, labels=LABELS, preprocess=Preprocess(crop=16, mean=0.5, std=0.5), device="cpu"
        )
    shade = torch.rand(2, 1, 16, 16)
    expected = grey((shade - 0.5) / 0.5)
    torch.testing.assert_close(classifier.logits(shade.expand(-1, 3, -1, -1)), expected)


class Needs(nn.Module):
    def __init__(self, run: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.run = run

    def forward(self, x: Tensor) -> Tensor:
        return self.run(x)


def _refuses(x: Tensor) -> Tensor:
    raise NotImplementedError("not for images")


@pytest.mark.parametrize(
    "body",
    [
        network(4),
        nn.Sequential(nn.Flatten(), nn.Linear(7, 3)),
        nn.Embedding(10, 3),
        Needs(lambda x: x["pixel_values"]),
        Needs(lambda x: x.pixel_values),
        Needs(_refuses),
        nn.LSTM(3, 3),
        nn.Sequential(network(), nn.Unflatten(1, (2, 2))),
    ],
    ids=["channels", "size", "ids", "key", "attribute", "error", "sequence", "shape"],
)
def test_networks_that_cannot_read_images_are_refused_in_words(body: nn.Module) -> None:
    with pytest.raises(
        ModelError, match=r"cannot read one image \(1, 3, 16, 16\).*expected a network of images"
    ):
        loaded(body)


def _with_weight_norm() -> nn.Module:
    body = network()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        body[0] = nn.utils.weight_norm(body[0])
    body(torch.rand(1, 3, 16, 16))
    return body


def _with_kept_activation() -> nn.Module:
    body = network()
    body[0].register_forward_hook(lambda module, _, output: setattr(module, "activation", output))
    body(torch.rand(1, 3, 16, 16))
    return body


class InPlace(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = network()

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x.clamp_(-1, 1))


@pytest.mark.parametrize(
    "make",
    [
        _with_weight_norm,
        _with_kept_activation,
        InPlace,
        lambda: nn.utils.parametrizations.spectral_norm(network()[0]) and network(),
        lambda: torch.jit.trace(network(), torch.zeros(1, 3, 16, 16)),
        lambda: torch.jit.script(network()),
        lambda: nn.DataParallel(network()),
    ],
    ids=["weight-norm", "hook", "in-place", "parametrised", "traced", "scripted", "parallel"],
)
def test_networks_with_a_past_are_copied_and_give_the_same(make: Callable[[], nn.Module]) -> None:
    body = make()
    classifier = loaded(body)
    images = torch.rand(2, 3, 16, 16)
    torch.testing.assert_close(classifier.logits(images), body(READS(images)))
    assert classifier.differentiable


@pytest.mark.parametrize("end", [nn.Identity(), nn.Softmax(1)], ids=["logits", "wrapped"])
def test_torchscript_is_said_to_hide_its_layers(end: nn.Module) -> None:
    classifier = loaded(torch.jit.trace(Ends(end), torch.zeros(1, 3, 16, 16)))
    assert isinstance(classifier.statistics, Absent)
    with pytest.raises(ModelError, match=r"is TorchScript, which hides its layers.*state_dict"):
        check_statistics(classifier, Alignment())


def test_what_cannot_be_copied_is_refused() -> None:
    body = network()
    body.generator = (number for number in range(3))
    with pytest.raises(ModelError, match=r"cannot be copied \(TypeError.*take out what it holds"):
        loaded(body)


class Blind(nn.Module):
    def __init__(self, how: Callable[[nn.Module, Tensor], Tensor]) -> None:
        super().__init__()
        self.body, self.how = network(), how

    def forward(self, x: Tensor) -> Tensor:
        return self.how(self.body, x)


@pytest.mark.parametrize(
    "how",
    [
        lambda body, x: body(x).detach(),
        torch.no_grad()(lambda body, x: body(x)),
        torch.inference_mode()(lambda body, x: body(x)),
        lambda body, x: torch.from_numpy(body(x).detach().numpy()),
    ],
    ids=["detached", "no-grad", "inference", "numpy"],
)
def test_a_network_without_a_gradient_loads_and_is_refused_for_guidance(how: Callable) -> None:
    classifier = loaded(Blind(how))
    check_statistics(classifier, None)
    with pytest.raises(ModelError, match=r"lets no gradient through .*choose method 'plain'"):
        check_statistics(classifier, Alignment())


@pytest.mark.parametrize(
    ("labels", "wording"),
    [
        ("dog", "is the text 'dog', expected a list of class names"),
        (3, "is 3, expected a list of class names"),
        ([1, 2, 3], "label 0 of .* is 1, expected a class name in words"),
        (
            {"a": "dog", "b": "horse", "c": "house"},
            "keys 'a', 'b', 'c', expected the numbers 0 to 2",
        ),
        ({1: "dog", 2: "horse", 3: "house"}, "expected the numbers 0 to 2"),
        (["dog", None, "house"], "label 1 of .* is None"),
        ({"dog", "horse", "house"}, "is the set .*a set has no order.* Give a list"),
        (frozenset(LABELS), "is the set frozenset.*a set has no order.* Give a list"),
        (["dog, horse, house"], "labels is 'dog, horse, house', several names in one, .*3 outputs"),
        ([__file__], r"labels is '.*\.py', a file, .*3 outputs, expected the names themselves"),
    ],
    ids=[
        *("text", "number", "numbers", "keys", "from-one", "none"),
        *("set", "frozen-set", "commas", "file"),
    ],
)
def test_labels_of_another_kind_are_refused(labels: object, wording: str) -> None:
    with pytest.raises(ConfigError, match=wording):
        loaded(network(), labels)


@pytest.mark.parametrize(
    "labels",
    [
        {2: "house", 0: "dog", 1: "horse"},
        {"0": "dog", "1": "horse", "2": "house"},
        {"horse": 1, "house": 2, "dog": 0},
        ("dog", "horse", "house"),
        iter(LABELS),
    ],
    ids=["numbers", "digits", "names", "tuple", "iterator"],
)
def test_labels_may_come_with_their_numbers(labels: object) -> None:
    assert loaded(network(), labels).labels == tuple(LABELS)


@pytest.mark.parametrize(
    ("source", "wording"),
    [
        (None, "classifier is a NoneType"),
        (42, "classifier is a int"),
        (network().state_dict(), "is a OrderedDict .weights alone, without their network."),
        (network, "classifier is a function"),
    ],
    ids=["none", "number", "weights", "function"],
)
def test_classifiers_of_another_kind_are_refused(source: object, wording: str) -> None:
    with pytest.raises(ConfigError, match=wording):
        loaded(source)
    with pytest.raises(ConfigError, match="preprocess is a function, expected a Preprocess"):
        load_classifier(network(), labels=LABELS, preprocess=network, device="cpu")


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("place", ["0.weight", "0.bias", "1.weight", "5.weight"])
def test_weights_that_are_no_numbers_are_refused(place: str, value: float) -> None:
    body = network()
    body.get_parameter(place).data.view(-1)[0] = value
    with pytest.raises(
        ModelError, match=rf"1 of 8 tensors of .* \(first: {re.escape(place)}\), expected finite"
    ):
        loaded(body)


def test_a_broken_tensor_that_no_image_passes_is_no_matter() -> None:
    body = Blind(lambda body, x: body(x))
    body.spare = nn.Linear(2, 2)
    nn.init.constant_(body.spare.weight, torch.nan)
    assert loaded(body).labels == tuple(LABELS)


def test_scores_that_overflow_are_refused() -> None:
    body = network()
    body[5].weight.data.fill_(3e38)
    with pytest.raises(ModelError, match="gives scores of an image that are NaN or infinite"):
        loaded(body)


@pytest.mark.parametrize("value", [0.0, 1e-38, 1e30])
def test_variances_that_no_images_leave_are_no_statistics(value: float) -> None:
    body = network()
    body[1].running_var.fill_(value)
    classifier = loaded(body)
    assert isinstance(classifier.statistics, Absent)
    with pytest.raises(
        ModelError, match=r"1 of 1 BatchNorm layers whose stored variances .*first: 1\)"
    ):
        check_statistics(classifier, Alignment())


def test_a_dead_channel_is_common_and_no_matter() -> None:
    body = network()
    body[1].running_var[0] = 0
    statistics = loaded(body).statistics
    assert isinstance(statistics, Statistics)
    assert Domain.of(body, statistics, "relative").target.weights.isfinite().all()


def test_statistics_that_no_image_has_passed_are_warned_of() -> None:
    body = network()
    body[1].reset_running_stats()
    with pytest.warns(ClassifierWarning, match="means of 0 and variances of 1, as new ones do"):
        loaded(body)


def test_activations_that_overflow_are_no_statistics() -> None:
    body = network()
    body[0].weight.data.mul_(1e22)
    body[1].running_var.mul_(1e17)
    with pytest.raises(
        ModelError, match=r"1 of 1 BatchNorm layers whose squares overflow \(first: 1\)"
    ):
        check_statistics(loaded(body), Alignment())


class Tokens(nn.Module):
    """Patches of an image as rows, like LeViT's, with BatchNorm over them.

    order: 'images', the tokens of an image one after the other; 'tokens', the first ones of all images first.
    """

    def __init__(self, order: str) -> None:
        super().__init__()
        self.order = order
        self.patches, self.norm = nn.Conv2d(3, 6, 4, 4), nn.BatchNorm1d(6)
        self.head = nn.Linear(6, 3)
        self.norm.running_mean.uniform_(-1, 1)
        self.norm.running_var.uniform_(0.5, 2)

    def forward(self, x: Tensor) -> Tensor:
        rows = self.patches(x).flatten(2)  # (N, C, T)
        rows = rows.permute((0, 2, 1) if self.order == "images" else (2, 0, 1))
        shape = rows.shape[:2]
        rows = self.norm(rows.flatten(0, 1)).unflatten(0, shape).relu()
        return self.head(rows.mean(1 if self.order == "images" else 0))


class Windows(nn.Module):
    """BatchNorm over the windows of an image, which stand where images usually do."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.head = nn.BatchNorm2d(3), nn.Linear(3, 3)
        self.norm.running_mean.uniform_(-1, 1)
        self.norm.running_var.uniform_(0.5, 2)

    def forward(self, x: Tensor) -> Tensor:
        windows = x.unfold(2, 8, 8).unfold(3, 8, 8).permute(0, 2, 3, 1, 4, 5).flatten(0, 2)
        return self.head(self.norm(windows).relu().unflatten(0, (len(x), 4)).mean((1, 3, 4)))


@pytest.mark.parametrize(
    "make",
    [lambda: Tokens("images"), lambda: Tokens("tokens"), Windows],
    ids=["by-image", "by-token", "windows"],
)
@pytest.mark.parametrize("fused", [True, False])
def test_batch_norm_over_parts_of_images_measures_each_image_alone(
    make: Callable, fused: bool
) -> None:
    classifier = loaded(make().eval())
    known = classifier.statistics
    images = torch.rand(3, 3, 16, 16)
    domain = Domain.of(classifier.network, known, per_image=True, fused=fused)
    with domain.watched() as l_bn:
        classifier.logits(images)
        together = l_bn()
    _, judgement = judged(classifier, images)
    assert together.shape == (3,)
    with recording_moments(known.taps) as taken:
        for number in range(3):
            with domain.watched() as l_bn:
                classifier.logits(images[number : number + 1])
                torch.testing.assert_close(l_bn()[0], together[number])
            alone = judged(classifier, images[number : number + 1])[1]
            torch.testing.assert_close(alone[0], judgement[number])
    assert not taken


class Mixed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm, self.head = nn.BatchNorm1d(3), nn.Linear(3, 3)
        self.norm.running_var.uniform_(0.5, 2)

    def forward(self, x: Tensor) -> Tensor:
        rows = x.mean(3).permute(2, 1, 0)  # (H, C, N)
        return self.head(self.norm(rows).mean(0).T)


def test_images_that_stand_in_the_last_axis_are_no_statistics() -> None:
    assert isinstance(loaded(Mixed().eval()).statistics, Absent)


def test_the_tokens_of_levit_are_told_apart() -> None:
    config = LevitConfig(
        image_size=64,
        hidden_sizes=[16, 24, 32],
        num_attention_heads=[2, 2, 2],
        depths=[1, 1, 1],
        key_dim=[8, 8, 8],
        num_labels=3,
        down_ops=[["Subsample", 8, 2, 4, 2, 2], ["Subsample", 8, 3, 4, 2, 2]],
    )
    levit = LevitForImageClassification(config).eval()
    for name, buffer in levit.named_buffers():
        if name.endswith("running_var"):
            buffer.uniform_(0.5, 2)
    classifier = load_classifier(
        levit, labels=LABELS, preprocess=Preprocess.squash(64), device="cpu"
    )
    assert {tap.rows for tap in classifier.statistics.taps} == {1, 4, 16}
    images = torch.rand(3, 3, 64, 64)
    together = judged(classifier, images)[1]
    alone = torch.cat([judged(classifier, one)[1] for one in images.split(1)])
    torch.testing.assert_close(together, alone)
