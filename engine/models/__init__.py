"""Frozen models: priors, decoders and classifiers, and where they come from."""

from engine.models.classifier import Classifier
from engine.models.classifier_sources import load_classifier, save_classifier
from engine.models.preprocess import Preprocess
from engine.models.prior import Prior
from engine.models.prior_sources import load_prior

__all__ = ["Classifier", "Preprocess", "Prior", "load_classifier", "load_prior", "save_classifier"]
