"""A table of class alignment tokens, and whether it fits a prior and a classifier."""

import re
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from itertools import accumulate
from typing import Any

from torch import Tensor

from engine.classifiers.base import Classifier
from engine.errors import TokenFileError
from engine.priors import Prior

TEMPLATE, INSTEAD = "a/an {token} {class name}", "a/an {token}"
"""Where a table's tokens stand: before the names of their classes, or in their place."""


@dataclass(frozen=True)
class TokenTraining:
    """How learning ended for a class, in words, what its last measured epoch showed, and what learning cost.

    finished: accuracy of the last finished images that were looked at, if any. start: the word that the token began as,
    'random' or 'class name'; moved: whether it ended elsewhere; "" and None in a file that does not tell.
    denoiser_forward, denoiser_backward: evaluations of single latents; one CFG step of an image is two. 0 in a file
    that does not tell. kinds: what it was learned on, as numbers of the table's `kinds`. variety: of the check's images
    that are recognised, as a share of the plain prompt's (`engine.tokens.check.variety`); None where it is not known.
    """

    outcome: str
    epochs: int
    accuracy: float
    loss: float
    finished: float | None = None
    start: str = ""
    moved: bool | None = None
    denoiser_forward: int = 0
    denoiser_backward: int = 0
    kinds: tuple[int, ...] = ()
    variety: float | None = None


@dataclass(frozen=True, eq=False)
class TokenTable:
    """Learned tokens of some of a classifier's classes; a class without one uses the plain prompt.

    rows: (K, D) float32: for each text encoder of the prior the row that it reads, one behind the other. encoders:
    width of each encoder's part of a row by the encoder's key, in this order. classes, labels, names: K each; a name
    is a placeholder such as `<ddis-dog>`. prior and classifier: their fingerprints. training: by class, also of classes
    that were left out because they pass without a token; empty for an imported table. run: the settings that the table
    was learned with, as JSON values. template: TEMPLATE or INSTEAD. kinds: of machines that learned it
    (`engine.methods.kind`), as JSON values, with how many images went through each phase at once; both decide which
    tokens come out. () in a file that does not tell.
    """

    rows: Tensor
    encoders: Mapping[str, int]
    classes: tuple[int, ...]
    labels: tuple[str, ...]
    names: tuple[str, ...]
    prior: str
    classifier: str
    training: Mapping[int, TokenTraining] = field(default_factory=dict)
    run: Mapping[str, Any] = field(default_factory=dict)
    template: str = TEMPLATE
    kinds: tuple[Mapping[str, Any], ...] = ()

    @property
    def instead(self) -> bool:
        """Whether the tokens take the place of the names of their classes."""
        return self.template == INSTEAD

    @property
    def fingerprint(self) -> str:
        """16 hex digits of the names and rows: what an image depends on."""
        digest = blake2b(repr((self.template, self.classes, self.names)).encode(), digest_size=8)
        digest.update(self.rows.detach().float().cpu().contiguous().numpy().tobytes())
        return digest.hexdigest()

    def name_of(self, class_index: int) -> str:
        """The placeholder of a class, or "" where the class has no token."""
        return self.names[self.classes.index(class_index)] if class_index in self.classes else ""

    def spans(self) -> dict[str, slice]:
        """Which columns of `rows` a text encoder reads, by its key."""
        ends = dict(zip(self.encoders, accumulate(self.encoders.values()), strict=True))
        return {key: slice(end - self.encoders[key], end) for key, end in ends.items()}


def placeholders(labels: Sequence[str]) -> tuple[str, ...]:
    """One unique, lower-case ASCII placeholder per label: 'Guitar, electric' becomes `<ddis-guitar-electric>`."""
    taken: dict[str, None] = {}
    for index, label in enumerate(labels):
        plain = unicodedata.normalize("NFKD", label).encode("ascii", "ignore").decode().lower()
        slug = re.sub(r"[^a-z0-9]+", "-", plain)[:40].strip("-") or f"class-{index}"
        while slug in taken:
            slug = f"{slug}-{index}"
        taken[slug] = None
    return tuple(f"<ddis-{slug}>" for slug in taken)


def encoder_widths(prior: Prior) -> dict[str, int]:
    """Width of the token embeddings of each text encoder, by its key."""
    return {
        encoder.key: int(encoder.module.get_input_embeddings().weight.shape[1])
        for encoder in prior.text_encoders()
    }


def check_fit(table: TokenTable, prior: Prior, classifier: Classifier | None = None) -> None:
    """Raise TokenFileError for a table of another prior, another width, or, if one is given, another classifier."""
    here, there = encoder_widths(prior), dict(table.encoders)
    if list(there.items()) != list(here.items()):
        raise TokenFileError(
            f"the tokens are {_widths(there)}, expected {_widths(here)} for prior {prior.name!r}: load the prior that "
            "they were learned with, or learn tokens for this one."
        )
    if table.prior != prior.fingerprint:
        raise TokenFileError(
            f"the tokens were learned with prior {table.prior}{_called(table, 'prior')}, expected {prior.fingerprint} "
            f"({prior.name!r}): load the prior that they were learned with, or learn tokens for this one."
        )
    if classifier is not None and table.classifier != classifier.fingerprint:
        raise TokenFileError(
            f"the tokens were learned for classifier {table.classifier}{_called(table, 'classifier')}, expected "
            f"{classifier.fingerprint} ({classifier.name!r}): load the classifier that they were learned for, or learn "
            "tokens for this one."
        )


def _called(table: TokenTable, what: str) -> str:
    """What the run that learned the tokens called a model, for a message; "" where its record does not say."""
    name = table.run.get("models", {}).get(what, {}).get("name")
    return f" ({name!r})" if name else ""


def _widths(encoders: Mapping[str, int]) -> str:
    return ", ".join(f"{width} wide for text encoder {key}" for key, width in encoders.items())
