"""Energy: a loss that every classifier has, without statistics. Low where the network is used to what it sees.

E(x) = -tau logsumexp(f(x) / tau)        (Liu et al., arXiv 2010.03759)
"""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from torch import Tensor, nn

from engine.classifiers.statistics.base import Examined, ImageTerm
from engine.errors import ConfigError

NAME = "energy"


def energy(_: Examined, argument: str = "") -> ImageTerm:
    """The energy of each image. argument: tau, 1 where it is "". Raises ConfigError for one that is no number > 0."""
    tau = _number(argument or "1")

    @contextmanager
    def watching(_: nn.Module) -> Iterator[Callable[[Tensor], Tensor]]:
        yield lambda logits: -tau * (logits / tau).logsumexp(1)

    return ImageTerm(
        source=f"{NAME}:{tau:g}",
        watching=watching,
        found=f"was loaded with statistics {NAME!r}, which know its logits alone",
    )


def _number(text: str) -> float:
    try:
        tau = float(text)
    except ValueError:
        tau = math.nan
    if not 0 < tau < math.inf:
        raise ConfigError(
            f"statistics is '{NAME}:{text}', expected a temperature above 0 behind the colon: write '{NAME}' for 1."
        )
    return tau
