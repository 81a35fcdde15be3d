"""The methods that are compared again and again, and the arguments that ask `generate` for them."""

from typing import Any

from engine import Alignment, Sampling

METHODS: dict[str, tuple[Alignment | None, Sampling]] = {
    "plain": (None, Sampling()),
    "paper": (Alignment.paper(), Sampling.paper()),
    "ours": (Alignment(), Sampling()),
}
"""Guidance, None for the prior alone, and the sampling that goes with it."""


def guided(alignment: Alignment | None) -> dict[str, Any]:
    """The arguments of `generate` for some guidance, or for the prior alone where it is None."""
    return {"method": "plain"} if alignment is None else {"alignment": alignment}
