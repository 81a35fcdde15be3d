"""Arguments of `generate` for some guidance, or for the prior alone."""

from typing import Any

from engine.settings import Alignment


def guided(alignment: Alignment | None) -> dict[str, Any]:
    """alignment: None for the prior alone."""
    return {"method": "plain"} if alignment is None else {"alignment": alignment}
