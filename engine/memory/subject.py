"""What is counted: models, usually on 'meta', and the settings that shape a run on them."""

from collections.abc import Hashable
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from torch import nn

from engine.classifiers import Classifier, load_classifier
from engine.errors import ConfigError
from engine.guidance.decoder import GuidanceDecoder, decoder_of
from engine.memory.budget import AUTO
from engine.memory.count import counting
from engine.memory.skeleton import skeleton_classifier, skeleton_prior
from engine.networks.frozen import indexed, named_device
from engine.priors import Context, Prior, load_prior
from engine.settings import Alignment, Sampling, TokenLearning
from engine.settings.polish import Polish
from engine.settings.sources import check_device

ARCHITECTURE = "arch:"
"""How the names of classifiers with random weights begin."""
MOST_PX = 2**14
"""Side of the largest images that are planned."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Subject:
    """Models and the settings that shape a run on them.

    Attributes:
        prior: Usually on 'meta'.
        classifier: Usually on 'meta'.
        alignment: None without guidance.
        cfg: The scale of classifier-free guidance; 1 is none.
        learning: How tokens are learned; None for the way that takes most, the published one.
        context: Of one prompt, with a negative one where CFG asks for it. Made here, so that it is
            not counted.
    """

    prior: Prior
    classifier: Classifier
    alignment: Alignment | None
    cfg: float
    learning: TokenLearning | None = None
    context: Context = field(init=False)

    def __post_init__(self) -> None:
        with torch.no_grad(), counting():  # counting is faster on 'meta' than not counting
            self.prior.schedule(2)  # a prior reads its scheduler once
            context = self.prior.encode(["a"], self.negative)
        object.__setattr__(self, "context", context)

    @property
    def negative(self) -> str | None:
        """The negative prompt; None where CFG does not ask for one."""
        return None if self.cfg == 1 else ""

    @property
    def moves(self) -> int:
        """The moves of a guided step; 0 without guidance."""
        return self.alignment.moves if self.alignment else 0

    @property
    def polish(self) -> Polish:
        """What polishes finished images; nothing does without guidance."""
        return self.alignment.polish if self.alignment else Polish()

    @property
    def identity(self) -> Hashable:
        """All that counts depend on: a count is made once in a process."""
        prior, classifier = self.prior, self.classifier
        parts = tuple((part.name, str(dtype_of(part.module))) for part in prior.components())
        tiny = None if prior.tiny is None else str(prior.tiny.config)
        shape = (
            prior.latent_shape(1),
            prior.image_size,
            repr(prior.call),
            parts,
            tiny,
            prior.quantise,
        )
        settings = self.alignment, self.cfg, self.learning
        return prior.fingerprint, shape, tuple(classifier.describe().values()), settings

    def decoder(self, checkpoint: bool = False) -> GuidanceDecoder | None:
        """What guidance sees latents through; None without guidance."""
        if self.alignment is None:
            return None
        return decoder_of(self.alignment, self.prior, self.classifier.preprocess, checkpoint)

    def networks(self) -> dict[str, nn.Module]:
        """The networks by name: the prior's components, and the classifier."""
        parts = {part.name: part.module for part in self.prior.components()}
        return {**parts, "classifier": self.classifier.network}

    def at(self, px: int) -> "Subject":
        """The same for images of another size. Raises ConfigError for one that the prior cannot make."""
        factor = int(self.prior.pipe.vae_scale_factor)
        if px < factor or px % factor:
            raise ConfigError(
                f"image_px is {px}, expected a multiple of {factor}: a latent of prior {self.prior.name!r} covers "
                f"{factor} x {factor} pixels. Round it."
            )
        if px > MOST_PX:
            raise ConfigError(
                f"image_px is {px}, expected at most {MOST_PX}: no prior draws larger images. Lower it."
            )
        return replace(self, prior=self.prior.called_with(height=px, width=px))


def subject_of(
    prior: str | Path | Prior,
    classifier: str | Path | nn.Module | Classifier,
    alignment: Alignment | None,
    sampling: Sampling,
    dtype: torch.dtype | None,
    device: torch.device,
    learning: TokenLearning | None,
) -> Subject:
    """Both models on 'meta', in the dtype that is asked for."""
    if isinstance(prior, Prior):
        prior = skeleton_prior(prior, dtype)
    else:
        half = torch.float16 if device.type == "cuda" else torch.float32
        prior = load_prior(prior, device="meta", dtype=dtype or half)
    if not isinstance(classifier, Classifier):
        classifier = _loaded(classifier, prior.dtype)
    return Subject(
        prior=prior,
        classifier=skeleton_classifier(classifier),
        alignment=alignment,
        cfg=sampling.cfg,
        learning=learning,
    )


def _loaded(source: str | Path | nn.Module, dtype: torch.dtype) -> Classifier:
    """The classifier of a source; without weights where these are random anyway.

    Others are loaded in full, so that a damaged file is reported.
    """
    if isinstance(source, str) and source.startswith(ARCHITECTURE):
        with counting():
            return load_classifier(source, device="meta", dtype=dtype)
    return load_classifier(source, device="cpu", dtype=dtype)


def device_of(prior: object, budget: str | int, device: str | torch.device | None) -> torch.device:
    """The device that a plan is for; see `plan`. It need not be in this machine."""
    if device is not None:
        check_device(str(device))
        return indexed(named_device(device))
    if isinstance(prior, Prior) and prior.device.type != "meta":
        return prior.device
    automatic = isinstance(budget, str) and budget.strip().lower() == AUTO
    return indexed(torch.device("cpu" if automatic and not torch.cuda.is_available() else "cuda"))


def loaded_bytes(prior: object, classifier: object) -> int:
    """Bytes of those models that are loaded already, on a device with memory."""
    networks: list[nn.Module] = []
    if isinstance(prior, Prior):
        networks += [part.module for part in prior.components()]
    if isinstance(classifier, Classifier):
        networks.append(classifier.network)
    seen: set[int] = set()
    return sum(
        weights_bytes(network, seen)
        for network in networks
        if not next(network.parameters()).is_meta
    )


def weights_bytes(module: nn.Module, seen: set[int]) -> int:
    """Bytes of a module's parameters and buffers that were not seen before."""
    total = 0
    for value in (*module.parameters(), *module.buffers()):
        storage = value.untyped_storage()
        if storage._cdata not in seen:
            seen.add(storage._cdata)
            total += storage.nbytes()
    return total


def dtype_of(module: nn.Module) -> torch.dtype:
    """The dtype of a network's first parameter."""
    return next(module.parameters()).dtype
