"""Data-free image synthesis: a training set from a frozen classifier and its class names (DDIS, arXiv 2506.15381)."""

# ruff: noqa: E402
import logging

# diffusers imports bitsandbytes where it is there, which on some CPUs remarks on a kernel that nothing here uses.
logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)

from engine.classifiers import Classifier, load_classifier
from engine.downstream.distill import distill
from engine.downstream.fit import fit
from engine.downstream.prune import prune
from engine.downstream.quantise import quantise
from engine.errors import EngineError
from engine.evaluation.evaluate import evaluate
from engine.evaluation.select import select
from engine.memory.plan import Plan, plan
from engine.memory.profile import StepProfile
from engine.memory.profile import profile_step as profile
from engine.models import Prior, load_prior
from engine.runners.generate import generate
from engine.runners.learn_tokens import learn_tokens
from engine.runners.tune import Tuned, tune
from engine.settings import Alignment, Evaluation, Sampling, Selection, TokenLearning
from engine.settings.downstream import Comparison, Distillation, Pruning, Quantisation
from engine.settings.inversion import DeepInversion, NaturalInversion, PlugInInversion
from engine.tokens.table import TokenTable, load_tokens, save_tokens
from engine.tokens.textual_inversion import export_textual_inversion, import_textual_inversion
from engine.types import ImageKey, Sample

__all__ = [
    "Alignment",
    "Classifier",
    "Comparison",
    "DeepInversion",
    "Distillation",
    "EngineError",
    "Evaluation",
    "ImageKey",
    "NaturalInversion",
    "Plan",
    "PlugInInversion",
    "Prior",
    "Pruning",
    "Quantisation",
    "Sample",
    "Sampling",
    "Selection",
    "StepProfile",
    "TokenLearning",
    "TokenTable",
    "Tuned",
    "distill",
    "evaluate",
    "export_textual_inversion",
    "fit",
    "generate",
    "import_textual_inversion",
    "learn_tokens",
    "load_classifier",
    "load_prior",
    "load_tokens",
    "plan",
    "profile",
    "prune",
    "quantise",
    "save_tokens",
    "select",
    "tune",
]
