"""Networks small enough to export in a test, and one cache for all of them: an export takes seconds."""

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderTiny
from torch import Tensor, nn

from engine.classifiers import Classifier, Preprocess, load_classifier
from engine.guidance.decoder import decoder_of
from engine.guidance.objective import Objective
from engine.onnx.export import exported
from engine.onnx.graphs import gradient_graph
from engine.onnx.session import Session
from engine.priors import Prior
from engine.settings import Alignment

LABELS = ["dog", "horse", "guitar", "house", "person"]


class Smooth(nn.Module):
    """No kink anywhere, so that no mask can flip by rounding."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.Conv2d(3, 6, 3, padding=1), nn.BatchNorm2d(6), nn.SiLU())
        self.second = nn.Sequential(
            nn.Conv2d(6, 6, 3, 2, padding=1, groups=2), nn.BatchNorm2d(6), nn.GELU()
        )
        self.third = nn.Sequential(
            nn.AvgPool2d(2), nn.Conv2d(6, 8, 1), nn.BatchNorm2d(8), nn.SiLU()
        )
        self.head = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.third(self.second(self.first(x))).mean((2, 3)))


class Kinked(nn.Module):
    """relu fused and not, a residual sum, and overlapping maxima."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(3, 6, 3, bias=False), nn.BatchNorm2d(6), nn.ReLU(inplace=True)
        )
        self.pool = nn.MaxPool2d(3, 2, padding=1)
        self.conv, self.norm = nn.Conv2d(6, 6, 3, padding=1), nn.BatchNorm2d(6)
        self.head = nn.Linear(6, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.pool(self.stem(x))
        return self.head((self.norm(self.conv(x)) + x).relu().mean((2, 3)))


def smooth_vae() -> AutoencoderTiny:
    """Latents of 4 px to images of 8 px, with no kink either."""
    return AutoencoderTiny(
        encoder_block_out_channels=(8, 8),
        decoder_block_out_channels=(8, 8),
        num_encoder_blocks=(1, 1),
        num_decoder_blocks=(1, 1),
        act_fn="silu",
    )


@pytest.fixture(scope="session")
def prior(small_prior: Prior) -> Prior:
    """The small prior with a tiny VAE."""
    torch.manual_seed(3)
    return small_prior.replaced(vae=smooth_vae().eval().requires_grad_(False))


@pytest.fixture(scope="session")
def classifier_of() -> Callable[[type[nn.Module]], Classifier]:
    """classifier_of(Smooth): with lived-in statistics, reading 12 px."""

    def make(kind: type[nn.Module]) -> Classifier:
        torch.manual_seed(5)
        network = kind().train()
        with torch.no_grad():
            for _ in range(5):
                network(torch.randn(16, 3, 12, 12))
        return load_classifier(
            network.eval(), labels=LABELS, preprocess=Preprocess.squash(12), device="cpu"
        )

    return make


@pytest.fixture(scope="session")
def smooth(classifier_of: Callable[[type[nn.Module]], Classifier]) -> Classifier:
    return classifier_of(Smooth)


@pytest.fixture(scope="session")
def kinked(classifier_of: Callable[[type[nn.Module]], Classifier]) -> Classifier:
    return classifier_of(Kinked)


@pytest.fixture(scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory, operator_table: None) -> Path:
    return tmp_path_factory.mktemp("onnx")


@pytest.fixture(scope="session")
def gradients() -> Callable[..., tuple[list[Tensor], Sequence[Tensor]]]:
    """(prior, classifier, alignment, cache, batch) -> (loss, gradient) from the file, and from autograd."""

    def both(
        prior: Prior, classifier: Classifier, alignment: Alignment, cache: Path, batch: int
    ) -> tuple[list[Tensor], Sequence[Tensor]]:
        decoder = decoder_of(alignment, prior, classifier.preprocess)
        graph = gradient_graph(prior, classifier, alignment, decoder)
        session = Session(exported(graph, cache), torch.device("cpu"))
        z, classes = torch.randn(batch, *prior.latent_shape(1)[1:]), torch.randint(0, 5, (batch,))
        found = session(z, classes) if alignment.class_weight else session(z)
        return found, Objective(classifier, alignment, decoder, False).value_and_grad(z, classes)

    return both
