"""A classifier of three classes, and a table of tokens for it."""

import pytest
import torch
from torch import nn

from engine.classifiers import Classifier, Preprocess, load_classifier
from engine.priors import Prior
from engine.tokens.table import TokenTable, TokenTraining

LABELS = ("dog", "elephant", "guitar")


@pytest.fixture
def classifier() -> Classifier:
    """One BatchNorm layer and three classes."""
    network = nn.Sequential(
        nn.Conv2d(3, 4, 3),
        nn.BatchNorm2d(4),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(4, 3),
    )
    return load_classifier(network, labels=LABELS, preprocess=Preprocess.squash(8), device="cpu")


@pytest.fixture
def table(tiny_prior: Prior, classifier: Classifier) -> TokenTable:
    """Tokens of the first two classes, as they come out of learning."""
    return TokenTable(
        rows=torch.randn(2, 32),
        encoders={"clip": 32},
        classes=(0, 1),
        labels=LABELS[:2],
        names=("<ddis-dog>", "<ddis-elephant>"),
        prior=tiny_prior.fingerprint,
        classifier=classifier.fingerprint,
        training={
            0: TokenTraining("recognised", 3, 0.75, 0.5),
            2: TokenTraining("passes without", 0, 1.0, 0.1),
        },
        run={"seed": 7, "learning": {"epochs": 3}},
    )
