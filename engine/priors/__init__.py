"""Frozen text-to-image priors: any diffusers pipeline behind one small interface."""

from engine.priors.context import Context
from engine.priors.interface import Component, Denoise, TextEncoder
from engine.priors.prior import Prior
from engine.priors.sources import load_prior
from engine.priors.steps import Step

__all__ = ["Component", "Context", "Denoise", "Prior", "Step", "TextEncoder", "load_prior"]
