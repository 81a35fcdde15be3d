"""Frozen models: priors, decoders and classifiers, and where they come from."""

from engine.models.prior import Prior
from engine.models.prior_sources import load_prior

__all__ = ["Prior", "load_prior"]
