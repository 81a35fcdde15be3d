"""What a prior can make of the words of its prompts: how many it reads, and which its tokenizers know as words."""

import inspect
import re
from typing import Any

from engine.priors.interface import TextEncoder
from engine.priors.prior import Prior

LEAST_LETTERS = 2.0
"""Letters in a piece of a word that a tokenizer knows, at least, on average."""
ENDLESS = 10**6
"""Tokenizers without a limit of their own name a larger number."""
CALLED = "max_sequence_length"


def tokens_read(prior: Prior, encoder: TextEncoder) -> int | None:
    """How many tokens of a prompt an encoder reads, those at its ends included; None where nothing limits it."""
    limits = [int(min(getattr(encoder.tokenizer, "model_max_length", None) or ENDLESS, ENDLESS))]
    if not encoder.key.startswith("clip"):
        parameters = inspect.signature(type(prior.pipe).__call__).parameters
        default = parameters[CALLED].default if CALLED in parameters else None
        called = prior.call.get(CALLED, default)
        limits = [called] if isinstance(called, int) else limits
    return min(limits) if min(limits) < ENDLESS else None


def cut_by(prior: Prior, text: str, more: int = 0) -> list[str]:
    """The keys of the encoders that do not read a text to its end.

    more: tokens besides those of the text, such as a learned one.
    """
    cutting = []
    for encoder in prior.text_encoders():
        limit = tokens_read(prior, encoder)
        if limit is not None and count(encoder.tokenizer, text) + more > limit:
            cutting.append(encoder.key)
    return cutting


def count(tokenizer: Any, text: str) -> int:
    """The tokens of a text, with those that a tokenizer puts at its ends."""
    return len(tokenizer(text, truncation=False, verbose=False).input_ids)


def knows(prior: Prior, words: str) -> bool:
    """Whether a tokenizer of the prior has a word of these as one, or as parts of some length.

    Words that it has to spell have not been in what it was made of, and hardly in what the prior was trained with.
    """
    parts = re.findall(r"[^\W_]+", words)
    return any(
        _is_known(encoder.tokenizer, part) for part in parts for encoder in prior.text_encoders()
    )


def _is_known(tokenizer: Any, word: str) -> bool:
    if any(letter.isdigit() for letter in word):
        return False
    pieces = tokenizer.tokenize(word)
    return len(pieces) == 1 or len(word) / max(1, len(pieces)) >= LEAST_LETTERS
