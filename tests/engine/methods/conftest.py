"""A classifier that the baselines' tests invert: tiny, 16 px, seven classes."""

import pytest

from engine.classifiers import Classifier, Preprocess, load_classifier
from engine.classifiers.cifar_resnet import CifarResNet

LABELS = ("dog", "elephant", "giraffe", "guitar", "horse", "house", "person")


@pytest.fixture
def student() -> Classifier:
    network = CifarResNet(depth=8, widths=(4, 4, 4), classes=7).eval()
    return load_classifier(network, labels=LABELS, preprocess=Preprocess.squash(16), device="cpu")
