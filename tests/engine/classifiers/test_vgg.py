"""VGG-8 among the networks that are known by their names."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from engine.classifiers import Preprocess, load_classifier, save_classifier
from engine.classifiers.architectures import architecture_of
from engine.classifiers.untrained import untrained
from engine.classifiers.vgg import Vgg8
from engine.errors import ModelError

LABELS = ("cat", "dog", "fox")
WIDTHS = (4, 6, 8, 8, 10)


@pytest.fixture
def network() -> Vgg8:
    torch.manual_seed(0)
    found = Vgg8(WIDTHS, classes=3)
    found(torch.rand(16, 3, 16, 16))  # statistics that are not those of a new network
    return found.eval()


def test_it_is_the_published_stack() -> None:
    network = untrained("vgg8", 100)
    layers = [
        layer for layer in network.modules() if isinstance(layer, (nn.Conv2d, nn.BatchNorm2d))
    ]
    assert len(layers) == 10
    assert sum(value.numel() for value in network.parameters()) == pytest.approx(3.96e6, rel=0.01)
    sides: list[int] = []
    for conv in network.convs:  # type: ignore[union-attr]
        conv.register_forward_hook(lambda _, __, out: sides.append(out.shape[-1]))
    assert network(torch.rand(2, 3, 32, 32)).shape == (2, 100)
    assert sides == [32, 16, 8, 4, 2]


@pytest.mark.parametrize("side", [16, 40, 64])
@pytest.mark.filterwarnings("ignore:the file of classifier")
def test_a_checkpoint_of_any_widths_gives_its_own_scores(
    network: Vgg8, side: int, tmp_path: Path
) -> None:
    file = tmp_path / "vgg.safetensors"
    save_file(network.state_dict(), file)
    images = torch.rand(2, 3, side, side)
    classifier = load_classifier(file, architecture="vgg8", labels=LABELS, device="cpu")
    assert torch.equal(classifier.network(images), network(images))
    assert architecture_of(network) == "vgg8"
    assert classifier.statistics is not None


def test_a_folder_of_one_is_read_again(network: Vgg8, tmp_path: Path) -> None:
    reads = Preprocess.squash(16)
    save_classifier(tmp_path, network, architecture="vgg8", labels=LABELS, preprocess=reads)
    again = load_classifier(str(tmp_path), device="cpu")
    images = torch.rand(2, 3, 16, 16)
    assert torch.allclose(again.network(images), network(images), atol=1e-3)  # kept in float16
    assert again.preprocess == reads


def test_another_network_s_weights_are_refused_and_the_right_name_is_offered(
    network: Vgg8, tmp_path: Path
) -> None:
    file = tmp_path / "vgg.safetensors"
    save_file(network.state_dict(), file)
    with pytest.raises(ModelError, match=r"does not fit resnet20 .*it fits vgg8; set"):
        load_classifier(file, architecture="resnet20", labels=LABELS, device="cpu")
