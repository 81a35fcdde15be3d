"""Data-free image synthesis: make a training set from a frozen classifier and its class names (DDIS, arXiv 2506.15381).

Public names are resolved on first use, so that `import engine` loads neither torch nor diffusers.
"""

import logging
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from engine.classifiers import Classifier, Preprocess, load_classifier, save_classifier
    from engine.downstream.distill import distill
    from engine.downstream.fit import fit
    from engine.downstream.prune import prune
    from engine.downstream.quantise import quantise
    from engine.drop_in.callback import guiding_callback
    from engine.drop_in.scheduler import GuidedScheduler
    from engine.errors import EngineError
    from engine.evaluation.evaluate import evaluate
    from engine.evaluation.export_statistics import export_statistics
    from engine.evaluation.select import select
    from engine.events import Cancelled, Events
    from engine.memory.plan import Plan, plan
    from engine.memory.profile import StepProfile
    from engine.memory.profile import profile_step as profile
    from engine.priors import Prior, load_prior
    from engine.report import write_report
    from engine.request import ClassifierSource, Execution, PriorSource, Request
    from engine.runners.generate import generate, generate_again
    from engine.runners.learn_lora import LearnedLora, learn_lora
    from engine.runners.learn_tokens import learn_tokens
    from engine.runners.local import LocalRunner
    from engine.runners.tune import Tuned, tune
    from engine.settings import Alignment, Evaluation, Polish, Sampling, Selection, TokenLearning
    from engine.settings.cluster import Cluster
    from engine.settings.downstream import (
        Comparison,
        Distillation,
        Pruning,
        Quantisation,
        Streaming,
    )
    from engine.settings.inversion import DeepInversion, NaturalInversion, PlugInInversion
    from engine.settings.lora import LoraLearning
    from engine.settings.methods import DDIS, Plain
    from engine.settings.reads import Reads
    from engine.settings.statistics import StatisticsExport
    from engine.tokens.files import load_tokens, save_tokens
    from engine.tokens.table import TokenTable
    from engine.tokens.textual_inversion import (
        export_textual_inversion,
        import_textual_inversion,
    )
    from engine.types import ImageKey, Sample

_HOMES = {
    "classifiers": ("Classifier", "Preprocess", "load_classifier", "save_classifier"),
    "downstream.distill": ("distill",),
    "downstream.fit": ("fit",),
    "downstream.prune": ("prune",),
    "downstream.quantise": ("quantise",),
    "drop_in.callback": ("guiding_callback",),
    "drop_in.scheduler": ("GuidedScheduler",),
    "errors": ("EngineError",),
    "events": ("Cancelled", "Events"),
    "evaluation.evaluate": ("evaluate",),
    "evaluation.export_statistics": ("export_statistics",),
    "evaluation.select": ("select",),
    "memory.plan": ("Plan", "plan"),
    "memory.profile": ("StepProfile",),
    "priors": ("Prior", "load_prior"),
    "report": ("write_report",),
    "request": ("ClassifierSource", "Execution", "PriorSource", "Request"),
    "runners.generate": ("generate", "generate_again"),
    "runners.learn_lora": ("LearnedLora", "learn_lora"),
    "runners.learn_tokens": ("learn_tokens",),
    "runners.local": ("LocalRunner",),
    "runners.tune": ("Tuned", "tune"),
    "settings": ("Alignment", "Evaluation", "Polish", "Sampling", "Selection", "TokenLearning"),
    "settings.cluster": ("Cluster",),
    "settings.downstream": ("Comparison", "Distillation", "Pruning", "Quantisation", "Streaming"),
    "settings.inversion": ("DeepInversion", "NaturalInversion", "PlugInInversion"),
    "settings.lora": ("LoraLearning",),
    "settings.methods": ("DDIS", "Plain"),
    "settings.reads": ("Reads",),
    "settings.statistics": ("StatisticsExport",),
    "tokens.files": ("load_tokens", "save_tokens"),
    "tokens.table": ("TokenTable",),
    "tokens.textual_inversion": ("export_textual_inversion", "import_textual_inversion"),
    "types": ("ImageKey", "Sample"),
}
_PUBLIC = {name: (home, name) for home, names in _HOMES.items() for name in names}
_PUBLIC["profile"] = ("memory.profile", "profile_step")

__all__ = [
    "DDIS",
    "Alignment",
    "Cancelled",
    "Classifier",
    "ClassifierSource",
    "Cluster",
    "Comparison",
    "DeepInversion",
    "Distillation",
    "EngineError",
    "Evaluation",
    "Events",
    "Execution",
    "GuidedScheduler",
    "ImageKey",
    "LearnedLora",
    "LocalRunner",
    "LoraLearning",
    "NaturalInversion",
    "Plain",
    "Plan",
    "PlugInInversion",
    "Polish",
    "Preprocess",
    "Prior",
    "PriorSource",
    "Pruning",
    "Quantisation",
    "Reads",
    "Request",
    "Sample",
    "Sampling",
    "Selection",
    "StatisticsExport",
    "StepProfile",
    "Streaming",
    "TokenLearning",
    "TokenTable",
    "Tuned",
    "distill",
    "evaluate",
    "export_statistics",
    "export_textual_inversion",
    "fit",
    "generate",
    "generate_again",
    "guiding_callback",
    "import_textual_inversion",
    "learn_lora",
    "learn_tokens",
    "load_classifier",
    "load_prior",
    "load_tokens",
    "plan",
    "profile",
    "prune",
    "quantise",
    "save_classifier",
    "save_tokens",
    "select",
    "tune",
    "write_report",
]


# On a CPU with AVX-512 BF16, bitsandbytes warns when it is imported that it found no kernel of another package, and
# advises to install it. Nothing here uses that kernel.
logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from engine.networks.later import imports_spared

    home, attribute = _PUBLIC[name]
    with imports_spared():
        value = globals()[name] = getattr(import_module(f"{__name__}.{home}"), attribute)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
