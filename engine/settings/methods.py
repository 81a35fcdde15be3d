"""Settings of the methods that draw with a prior: the package's own, and the prior alone."""

from dataclasses import dataclass, field
from typing import ClassVar

from engine.settings.alignment import Alignment
from engine.settings.fields import setting
from engine.settings.sampling import Sampling


@dataclass(frozen=True, kw_only=True)
class Plain:
    """The prior alone, unguided. With tokens it is CAT without DAG."""

    name: ClassVar[str] = "plain"
    alignment: ClassVar[None] = None

    sampling: Sampling = field(default_factory=Sampling)
    tokens: str | None = setting(
        None, "learned class tokens (CAT): a file of ddis learn-tokens", "FILE"
    )

    @classmethod
    def paper(cls) -> "Plain":
        """The prior alone, sampled as in the paper."""
        return cls(sampling=Sampling.paper())


@dataclass(frozen=True, kw_only=True)
class DDIS:
    """Domain alignment guidance (DAG) and, with a token file, class alignment tokens (CAT)."""

    name: ClassVar[str] = "ddis"

    alignment: Alignment = field(default_factory=Alignment)
    sampling: Sampling = field(default_factory=Sampling)
    tokens: str | None = setting(
        None, "learned class tokens (CAT): a file of ddis learn-tokens", "FILE"
    )

    @classmethod
    def paper(cls) -> "DDIS":
        """DDIS as published (arXiv 2506.15381): guidance and sampling; tokens come from their own preset."""
        return cls(alignment=Alignment.paper(), sampling=Sampling.paper())
