"""All that a report reads: the results, and what ships now."""

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from studies import ambiguity, any_classifier, choices, evidence, few_steps, guidance_study

from engine.apps.demo import shipped_tokens
from engine.embedded.judge import load_judge
from engine.priors import Prior, load_prior
from engine.runners.start_word import NO_STYLE
from engine.settings import Alignment, Sampling, TokenLearning
from engine.settings.downstream import Distillation
from engine.tokens.files import load_tokens
from engine.tokens.state import initial_rows
from engine.tokens.table import TokenTable
from reports.current import Current, Shipped


def read_results(folder: Path) -> dict[str, dict]:
    """What the JSON files of a folder hold, by name."""
    return {file.stem: json.loads(file.read_text()) for file in sorted(folder.glob("*.json"))}


def read_current() -> Current:
    """Read the embedded models, the tokens, the defaults, and the methods of the studies."""
    prior = load_prior("embedded")
    words = [*TokenLearning().styles, NO_STYLE]
    return Current(
        prior=prior.fingerprint,
        tokens={domain: _shipped(domain, prior, words) for domain in load_judge().domains},
        alignment=asdict(Alignment()),
        sampling=asdict(Sampling()),
        distillation=asdict(Distillation()),
        methods=_as_json(evidence.METHODS),
        variants={
            "guidance_study": _as_json(guidance_study.VARIANTS),
            "few_steps": _as_json(few_steps.VARIANTS),
            "choices": _as_json(choices.WAYS),
            "ambiguity": _as_json(ambiguity.RECIPES),
            "any_classifier": _as_json(any_classifier.ROWS),
        },
    )


def _shipped(domain: str, prior: Prior, words: list[str]) -> Shipped | None:
    file = shipped_tokens(domain)
    if not file.exists():
        return None
    tokens = load_tokens(file, prior)
    return Shipped(fingerprint=tokens.fingerprint, words=_unmoved(tokens, prior, words))


def _unmoved(tokens: TokenTable, prior: Prior, words: list[str]) -> dict[str, str | None]:
    """Of each class, which of the words its token equals; tokens may have begun as one and not left it."""
    begun = {word: initial_rows(prior, tokens.classes, tokens.labels, word, 0) for word in words}
    return {
        label: next((word for word in words if begun[word][place].equal(tokens.rows[place])), None)
        for place, label in enumerate(tokens.labels)
    }


def _as_json(methods: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    return json.loads(json.dumps({name: asdict(how) for name, how in methods.items()}))
