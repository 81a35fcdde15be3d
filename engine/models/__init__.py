"""Frozen text-to-image priors and their decoders."""

from engine.models.prior import Prior
from engine.models.prior_sources import load_prior

__all__ = ["Prior", "load_prior"]
