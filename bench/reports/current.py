"""What ships now, with which a report compares what its results were made with."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Shipped:
    """The tokens of one classifier: the fingerprint of their file, and of each class the word that its token still is.

    words: None for a class whose token was learned away from every word.
    """

    fingerprint: str
    words: Mapping[str, str | None]


@dataclass(frozen=True, kw_only=True)
class Current:
    """prior: its fingerprint. tokens: by domain, None where none ship. methods: of the evidence. variants: by study, of
    those whose rows are variants of their own. Settings are as a JSON file gives them back.
    """

    prior: str
    tokens: Mapping[str, Shipped | None]
    alignment: Mapping[str, Any]
    sampling: Mapping[str, Any]
    distillation: Mapping[str, Any]
    methods: Mapping[str, Mapping[str, Any]]
    variants: Mapping[str, Mapping[str, Mapping[str, Any]]]
