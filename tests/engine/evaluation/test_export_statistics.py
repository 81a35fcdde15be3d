"""Statistics files: what is measured, that files fit the network that they are of, and everything wrong with one."""

import json
import warnings
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from engine.apps.cli import main
from engine.classifiers import Classifier, Preprocess, load_classifier, save_classifier
from engine.classifiers.cifar_resnet import CifarResNet
from engine.classifiers.statistics import Statistics
from engine.classifiers.statistics.file import MEANS, Header, network_mark
from engine.errors import ConfigError, ModelError, OutputError
from engine.evaluation.export_statistics import (
    ExactStatisticsWarning,
    export_statistics,
)
from engine.evaluation.images import open_images
from engine.evaluation.layer_moments import chosen_calls, noise_images
from engine.guidance.objective import Objective
from engine.settings import Alignment
from engine.settings.statistics import StatisticsExport

READS = Preprocess.squash(16)
LABELS = ("dog", "elephant", "giraffe", "guitar", "horse", "house", "person")


class Tokens(nn.Module):
    """A network of tokens (N, 16, 6) that is normalised by layer, whose activations are far from 0."""

    def __init__(self) -> None:
        super().__init__()
        self.patches, self.norm = nn.Conv2d(3, 6, 4, 4), nn.LayerNorm(6)
        self.mix, self.unused, self.head = nn.Linear(6, 5), nn.LayerNorm(5), nn.Linear(5, 7)
        nn.init.constant_(self.patches.bias, 1000.0)

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.patches(x).flatten(2).transpose(1, 2)
        return self.head(self.mix(self.norm(tokens)).relu().mean(1))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """21 images of 16 px, 3 of each class."""
    for number, label in enumerate(LABELS * 3):
        file = tmp_path / "images" / label / f"{number}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        pixels = (torch.rand(16, 16, 3) * 255).byte().numpy()
        Image.fromarray(pixels).save(file)
    return tmp_path / "images"


@pytest.fixture(autouse=True)
def _quiet() -> None:
    warnings.simplefilter("ignore", ExactStatisticsWarning)


def loaded(network: nn.Module, statistics: str | Path = "none", **changes) -> Classifier:
    given = {"labels": LABELS, "preprocess": READS, "device": "cpu", **changes}
    return load_classifier(network, statistics=str(statistics), **given)


def values(folder: Path, classifier: Classifier) -> Tensor:
    """All images of the folder, in order, as the network reads them."""
    return classifier.preprocess(torch.cat(list(open_images(folder).batches(64))))


@pytest.mark.parametrize("batch", [1, 4, 21])
def test_batches_give_the_moments_of_all_images(folder: Path, tmp_path: Path, batch: int) -> None:
    network = Tokens()
    out = tmp_path / "tokens.safetensors"
    report = export_statistics(loaded(network), folder, out, StatisticsExport(image_batch=batch))
    known = loaded(network, out).statistics
    assert isinstance(known, Statistics)
    assert known.source.startswith("file:")
    assert report["images"] == 21
    assert report["layers"] == [{"layer": "norm", "of": "input", "channels": 6}]
    tokens = network.patches(values(folder, loaded(network)).double().float()).flatten(2)
    exact = tokens.double()
    (tap,), (stored,) = known.taps, known.stored
    assert (tap.axis, tap.of) == (-1, "input")
    torch.testing.assert_close(stored.mean, exact.mean((0, 2)).float(), rtol=1e-6, atol=0)
    expected = exact.var((0, 2), correction=0).float()
    torch.testing.assert_close(stored.var, expected, rtol=1e-3, atol=0)


def test_batch_norm_layers_are_measured_where_they_store(
    folder: Path, tmp_path: Path, tiny_resnet: CifarResNet
) -> None:
    out = tmp_path / "resnet.safetensors"
    export_statistics(loaded(tiny_resnet), folder, out)
    from_file, stored = loaded(tiny_resnet, out), loaded(tiny_resnet, "batch-norm")
    places = [
        [name for name, layer in one.network.named_modules() if layer in {t.layer for t in taps}]
        for one, taps in ((one, one.statistics.taps) for one in (from_file, stored))
    ]
    assert places[0] == places[1]
    images = torch.cat(list(open_images(folder).batches(64)))
    assert Objective(from_file, Alignment(class_weight=0)).value(images).item() < 1e-6


def test_a_network_without_norms_is_measured_behind_its_products() -> None:
    network = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.ReLU(inplace=True), nn.Flatten(), nn.Linear(784, 5), nn.Linear(5, 7)
    )
    calls = chosen_calls(loaded(network), None)
    assert [(c.path, c.of, c.axis, c.channels, c.overwritten) for c in calls] == [
        ("0", "output", 1, 4, True),
        ("3", "output", -1, 5, False),
    ]


def test_layers_are_named_by_patterns_and_sides() -> None:
    classifier = loaded(Tokens())
    calls = chosen_calls(classifier, ["mix", "mix:output", "no*"])
    assert [(c.path, c.of, c.channels) for c in calls] == [
        ("norm", "input", 6),
        ("mix", "input", 6),
        ("mix", "output", 5),
    ]
    with pytest.raises(
        ConfigError,
        match=r"layers has 'mixx', expected a name .* 5 layers, such as .*'norm'.*: choose one of them",
    ):
        chosen_calls(classifier, ["mixx"])
    with pytest.raises(
        ConfigError, match=r"layers has 'unused', of which no layer runs on a tensor"
    ):
        chosen_calls(classifier, ["unused"])
    with pytest.raises(ConfigError, match=r"no normalisation and fewer than two convolutions"):
        chosen_calls(loaded(nn.Sequential(nn.Flatten(), nn.Linear(768, 7))), None)


def test_features_by_class(folder: Path, tmp_path: Path) -> None:
    network, out = Tokens(), tmp_path / "f.safetensors"
    settings = StatisticsExport(features=True, image_batch=4)
    export_statistics(loaded(network), folder, out, settings)
    found = load_file(out)
    with torch.no_grad():
        pixels = values(folder, loaded(network))
        tokens = network.patches(pixels).flatten(2).transpose(1, 2)
        rows = network.mix(network.norm(tokens)).relu().mean(1).double().view(7, 3, 5)
    assert found["features/counts"].tolist() == [3] * 7
    torch.testing.assert_close(found[MEANS], rows.mean(1).float(), rtol=1e-4, atol=1e-6)
    centred = (rows - rows.mean(1, keepdim=True)).flatten(0, 1)
    covariance = (centred.T @ centred / (21 - 7)).float()
    torch.testing.assert_close(found["features/covariance"], covariance, rtol=1e-3, atol=1e-8)
    (folder / "cat").mkdir()
    (folder / "dog").rename(folder / "dogs")
    with pytest.raises(ConfigError, match=r"of labels 'dogs', expected the classes of classifier"):
        export_statistics(loaded(network), folder, out, settings)


def test_an_exact_file_comes_with_a_warning(folder: Path, tmp_path: Path) -> None:
    with pytest.warns(
        ExactStatisticsWarning, match=r"exact averages over 21 images\. .* are few\. Set"
    ):
        export_statistics(loaded(Tokens()), folder, tmp_path / "x.safetensors")
    assert (tmp_path / "x.safetensors").exists()


def test_a_private_file_says_what_it_promises(folder: Path, tmp_path: Path) -> None:
    classifier, out = loaded(Tokens()), tmp_path / "p.safetensors"
    few = StatisticsExport(epsilon=1.0, delta=1e-3)
    with pytest.raises(
        ConfigError, match=r"epsilon is 1 with 21 images and 12 numbers of 1 layers"
    ):
        export_statistics(classifier, folder, out, few)
    assert not out.exists()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        settings = StatisticsExport(epsilon=400.0, delta=1e-2, image_batch=5, public=str(folder))
        report = export_statistics(classifier, folder, out, settings)
    assert report["privacy"]["epsilon"] == 400
    assert report["privacy"]["public"] == "images"
    assert 0 < report["privacy"]["noise"] < 0.25
    known = loaded(classifier.network, out).statistics
    export_statistics(classifier, folder, tmp_path / "exact.safetensors")
    exact = loaded(classifier.network, tmp_path / "exact.safetensors").statistics
    away = (known.stored[0].mean - exact.stored[0].mean) / exact.stored[0].var.sqrt()
    assert 0 < float(away.abs().max()) < 1.5


def test_noise_images_are_images_and_always_the_same() -> None:
    images = noise_images((16, 12))
    assert images.shape[1:] == (3, 16, 12)
    assert images.min() >= 0
    assert images.max() <= 1
    assert torch.equal(images, noise_images((16, 12)))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"epsilon": 0.0}, "epsilon is 0, expected a finite number above 0"),
        ({"epsilon": 1.0, "delta": 1.0}, "delta is 1, expected a probability"),
        ({"epsilon": 1.0, "clip": -1.0}, "clip is -1, expected a finite number"),
        ({"epsilon": 1.0, "features": True}, "features came with `epsilon`, expected one of them"),
        ({"public": "x"}, "public came without `epsilon`, expected both"),
        ({"layers": ()}, "layers is empty, expected at least one name"),
        ({"image_batch": 0}, "image_batch is 0, expected at least 1"),
    ],
)
def test_settings_that_make_no_sense(change: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        StatisticsExport(**change)


def test_what_cannot_be_measured_or_written(folder: Path, tmp_path: Path) -> None:
    classifier, out = loaded(Tokens()), tmp_path / "s.safetensors"
    with pytest.raises(ConfigError, match=r"expected a name that ends in \.safetensors"):
        export_statistics(classifier, folder, tmp_path / "s.bin")
    with pytest.raises(OutputError, match="it is a folder"):
        export_statistics(classifier, folder, folder.rename(tmp_path / "f.safetensors"))
    folder = tmp_path / "f.safetensors"
    with pytest.raises(
        ConfigError, match=r"there is no .*nowhere, expected a folder of images or a"
    ):
        export_statistics(classifier, tmp_path / "nowhere", out)
    alone = tmp_path / "alone"
    alone.mkdir()
    next(folder.rglob("*.png")).rename(alone / "one.png")
    with pytest.raises(ConfigError, match=r"alone has 1 image, expected at least 2"):
        export_statistics(classifier, alone, out)
    with pytest.raises(ConfigError, match=r"is in torch\.float16, expected float32"):
        export_statistics(loaded(Tokens(), dtype="float16"), folder, out)
    broken = loaded(Tokens())
    nn.init.constant_(broken.network.patches.weight, float("inf"))
    with pytest.raises(
        ConfigError, match=r"the moments of 'norm' are not finite, expected numbers"
    ):
        export_statistics(broken, folder, out)
    assert not out.exists()


@pytest.fixture
def written(folder: Path, tmp_path: Path) -> tuple[Tokens, Path]:
    """A network and its file."""
    network, out = Tokens(), tmp_path / "tokens.safetensors"
    export_statistics(loaded(network), folder, out)
    return network, out


def test_a_file_of_something_else_is_refused(written: tuple[Tokens, Path]) -> None:
    network, out = written
    other = deepcopy(network)
    nn.init.normal_(other.mix.weight)
    with pytest.raises(
        ModelError, match=r"of 'Tokens' with weights \w+, expected those of this network"
    ):
        loaded(other, out)
    with pytest.raises(
        ModelError, match=r"of other preprocessing \(crop \[16, 16\] there and \[8, 8\]"
    ):
        loaded(network, out, preprocess=Preprocess.squash(8))
    assert isinstance(loaded(network, out, labels=tuple("abcdefg")).statistics, Statistics)
    assert isinstance(loaded(network, f"file:{out}", dtype="float16").statistics, Statistics)


def rewritten(
    out: Path, change: Callable[[dict[str, Tensor], Header, dict[str, str]], None]
) -> None:
    """The file again, after a change of its tensors, its header's values, or its metadata."""
    tensors = load_file(out)
    content = out.read_bytes()
    length = int.from_bytes(content[:8], "little")
    facts = json.loads(content[8 : 8 + length])["__metadata__"]
    header = json.loads(facts["header"])
    change(tensors, header, facts)
    save_file(tensors, out, {"header": json.dumps(header), **{k: facts[k] for k in ("format",)}})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t, h, f: f.update(format="ddis-layer-statistics/9"), "has format .*/9', expected"),
        (lambda t, h, f: h["calls"][0].__setitem__(0, "gone"), "cannot be read"),
        (
            lambda t, h, f: (
                h.update(calls=[["gone", "input"]])
                or t.update(
                    {"gone/input/0/mean": torch.zeros(6), "gone/input/0/var": torch.ones(6)}
                )
            ),
            r"layers that the network does not have \(gone\)",
        ),
        (lambda t, h, f: h.update(calls=[]), "is of no layer, expected at least one"),
        (lambda t, h, f: h.pop("images"), "cannot be read .*images"),
        (lambda t, h, f: t["norm/input/0/var"].neg_(), "moments of 'norm/input/0' that no images"),
        (
            lambda t, h, f: t["norm/input/0/mean"].fill_(torch.nan),
            "that no images have, expected fin",
        ),
        (
            lambda t, h, f: t.update(
                {"norm/input/0/mean": torch.zeros(4), "norm/input/0/var": torch.ones(4)}
            ),
            "the input of 'norm' with 4 channels there, the input of 'norm' with 6 channels here",
        ),
        (
            lambda t, h, f: (
                h["calls"].append(["norm", "input"])
                or t.update(
                    {"norm/input/1/mean": torch.zeros(6), "norm/input/1/var": torch.ones(6)}
                )
            ),
            "the input of 'norm' with 6 channels there, nothing here",
        ),
    ],
)
def test_a_damaged_file_is_refused(written: tuple[Tokens, Path], change, message: str) -> None:
    network, out = written
    rewritten(out, change)
    with pytest.raises(ModelError, match=message) as refused:
        loaded(network, out)
    assert "expected" in str(refused.value)


def test_what_is_no_statistics_file(written: tuple[Tokens, Path], tmp_path: Path) -> None:
    network, out = written
    cut = tmp_path / "cut.safetensors"
    cut.write_bytes(out.read_bytes()[:100])
    with pytest.raises(ModelError, match=r"cut\.safetensors cannot be read .*whole file of `ddis"):
        loaded(network, cut)
    flipped = bytearray(out.read_bytes())
    flipped[-2] ^= 1
    cut.write_bytes(flipped)
    with pytest.raises(ModelError, match=r"another checksum than it was written with"):
        loaded(network, cut)
    save_file({"mean": torch.zeros(3)}, cut)
    with pytest.raises(ModelError, match=r"has format 'none', expected 'ddis-layer-statistics/1'"):
        loaded(network, cut)
    with pytest.raises(ModelError, match=r"gone\.safetensors cannot be read \(No such file"):
        loaded(network, tmp_path / "gone.safetensors")
    with pytest.raises(ConfigError) as refused:
        loaded(network, "file")
    assert "statistics is 'file', expected one of 'batch-norm', 'energy'," in str(refused.value)
    assert "or the path of a file of `ddis statistics`" in str(refused.value)


def test_a_mark_is_of_weights_alone(written: tuple[Tokens, Path]) -> None:
    network, _ = written
    assert network_mark(network) == network_mark(deepcopy(network).half().float())
    moved = deepcopy(network)
    moved.mix.bias.data += 0.1
    assert network_mark(network) != network_mark(moved)


def test_the_command_writes_a_file_that_generate_takes_and_records(
    folder: Path, tmp_path: Path, tiny_resnet: CifarResNet, small_prior_folder: Path, capsys
) -> None:
    named = tmp_path / "resnet"
    save_classifier(named, tiny_resnet, architecture="resnet8", labels=LABELS, preprocess=READS)
    out = tmp_path / "resnet.safetensors"
    asked = ["statistics", str(named), str(folder), "--out", str(out), "--device", "cpu"]
    assert main([*asked, "--layers", "layer1.*conv?:output", "bn1", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert [one["layer"] for one in report["layers"]] == ["bn1", "layer1.0.conv1", "layer1.0.conv2"]
    assert main([*asked, "--layers", "nowhere"]) == 2
    assert "--layers has 'nowhere', expected a name" in capsys.readouterr().err
    assert main([*asked, "--epsilon", "1"]) == 2
    assert "--epsilon is 1 with 21 images" in capsys.readouterr().err
    made = tmp_path / "made"
    words = ["generate", "--classifier", str(named), "--prior", str(small_prior_folder)]
    words += ["--steps", "2", "--images-per-class", "1", "--device", "cpu", "--classes", "dog"]
    assert main([*words, "--statistics", str(out), "--out", str(made)]) == 0
    record = json.loads((made / "run.json").read_text())
    assert record["request"]["classifier"]["statistics"] == str(out)
    assert record["models"]["classifier"]["statistics"].startswith("file:")
    again = tmp_path / "again"
    capsys.readouterr()
    rerun = ["generate", "--config", str(made / "run.json"), "--out", str(again)]
    assert main([*rerun, "--device", "cpu"]) == 0
    images = [next((place / "images").rglob("*.png")).read_bytes() for place in (made, again)]
    assert images[0] == images[1]
    assert main([*asked, "--layers", "bn1"]) == 0
    assert main([*rerun[:-1], str(tmp_path / "third"), "--device", "cpu"]) == 2
    assert "statistics" in capsys.readouterr().err
    assert main([*words, "--statistics", "enrgy", "--out", str(made)]) == 2
    assert "statistics is 'enrgy', expected one of" in capsys.readouterr().err
