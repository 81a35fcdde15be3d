"""Frozen text-to-image priors: any diffusers pipeline behind one small interface."""

from engine.priors.context import Context
from engine.priors.interface import Component, Prior, TextEncoder
from engine.priors.pipeline import PipelinePrior
from engine.priors.sources import load_prior
from engine.priors.steps import Step

__all__ = [
    "Component",
    "Context",
    "PipelinePrior",
    "Prior",
    "Step",
    "TextEncoder",
    "load_prior",
]
