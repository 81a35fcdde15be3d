"""The base class of every method's settings, and the settings of the methods that draw with a prior."""

from dataclasses import dataclass, field
from typing import ClassVar

from engine.settings.alignment import Alignment
from engine.settings.fields import setting
from engine.settings.sampling import Sampling


class MethodSettings:
    """Settings of a method: a frozen dataclass, named in the registry of methods, `engine.request.Method`."""

    name: ClassVar[str]
    """What `--method` calls the method."""
    prepared_by: ClassVar[str]
    """The function that makes a request ready (`engine.methods.base.Prepare`), as '<module>:<name>'."""
    uses: ClassVar[frozenset[str]]
    """The models it needs besides the classifier: 'prior', 'student'. Settings of other models are refused."""


class DrawingSettings(MethodSettings):
    """Settings of a method that draws with a prior; guided if `alignment` is set."""

    prepared_by = "engine.methods.ddis:prepare"
    uses = frozenset({"prior"})
    alignment: Alignment | None
    sampling: Sampling
    tokens: str | None


@dataclass(frozen=True, kw_only=True)
class Plain(DrawingSettings):
    """The prior alone, unguided. With tokens it is CAT without DAG."""

    name = "plain"
    alignment = None

    sampling: Sampling = field(default_factory=Sampling)
    tokens: str | None = setting(None, "class tokens (CAT): a file from ddis learn-tokens", "FILE")

    @classmethod
    def fast(cls) -> "Plain":
        """The prior alone, sampled with fewer evaluations of its denoiser."""
        return cls(sampling=Sampling.fast())

    @classmethod
    def paper(cls) -> "Plain":
        """The prior alone, sampled as in the paper."""
        return cls(sampling=Sampling.paper())


@dataclass(frozen=True, kw_only=True)
class DDIS(DrawingSettings):
    """Domain alignment guidance (DAG) and, with a token file, class alignment tokens (CAT)."""

    name = "ddis"

    alignment: Alignment = field(default_factory=Alignment)
    sampling: Sampling = field(default_factory=Sampling)
    tokens: str | None = setting(None, "class tokens (CAT): a file from ddis learn-tokens", "FILE")

    @classmethod
    def fast(cls) -> "DDIS":
        """With less compute: CFG in the middle of the schedule alone."""
        return cls(sampling=Sampling.fast())

    @classmethod
    def best(cls) -> "DDIS":
        """Images nearest to the training domain: two moves a step, and CFG in the middle of the schedule alone."""
        return cls(alignment=Alignment.best(), sampling=Sampling.fast())

    @classmethod
    def paper(cls) -> "DDIS":
        """DDIS as published (arXiv 2506.15381): guidance and sampling; learning tokens has its own preset."""
        return cls(alignment=Alignment.paper(), sampling=Sampling.paper())
