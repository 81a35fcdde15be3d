"""Frozen classifiers: the network, its own preprocessing, its labels, and where they come from."""

from engine.classifiers.base import Classifier
from engine.classifiers.preprocess import Preprocess
from engine.classifiers.sources import load_classifier, save_classifier

__all__ = ["Classifier", "Preprocess", "load_classifier", "save_classifier"]
