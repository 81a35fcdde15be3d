"""Every setting of the engine: frozen, checked once, with one default. The command line is built from these fields.

Help texts live in the fields' metadata, so that the command line and the docs agree.
"""

from engine.settings.alignment import CLASSIFIERS_PX, PRIORS_PX, Alignment
from engine.settings.evaluation import Evaluation
from engine.settings.fields import check_choices, setting
from engine.settings.networks import AUTO_ATTENTION, DTYPES
from engine.settings.polish import Polish
from engine.settings.sampling import Sampling
from engine.settings.selection import Selection
from engine.settings.tokens import TokenLearning

__all__ = [
    "AUTO_ATTENTION",
    "CLASSIFIERS_PX",
    "DTYPES",
    "PRIORS_PX",
    "Alignment",
    "Evaluation",
    "Polish",
    "Sampling",
    "Selection",
    "TokenLearning",
    "check_choices",
    "setting",
]
