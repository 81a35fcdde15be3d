"""Tokens in a frozen prior: each of its text encoders reads their rows in the place of embeddings of its own."""

import copy
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from engine.errors import TokenFileError
from engine.priors import Prior, TextEncoder
from engine.tokens.table import TokenTable, check_fit

LEGACY_EOS = 2
"""The end of text in configs of CLIP from before transformers learned to find it: the highest id of a prompt ends it,
which an added token would be."""


@contextmanager
def attached(prior: Prior, table: TokenTable) -> Iterator[Prior]:
    """Yield a twin of the prior whose prompts may hold the table's placeholders; gradients reach `table.rows`.

    The twin shares all weights, and none is written. It speaks within the block only; the prior given understands
    what it did before, within and after. Raises TokenFileError where table and prior do not fit.
    """
    check_fit(table, prior)
    if not table.names:
        yield prior
        return
    tokenizers: dict[str, Any] = {}
    with ExitStack() as stack:
        for encoder, span in zip(prior.text_encoders(), table.spans().values(), strict=True):
            tokenizer = _speaking(encoder, table, prior.name)
            ids = tokenizer.convert_tokens_to_ids(list(table.names))
            stack.enter_context(_reading(encoder, ids, table.rows, span))
            stack.enter_context(_ending(encoder.module, tokenizer.eos_token_id))
            tokenizers[encoder.tokenizer_name] = tokenizer
        yield prior.replaced(**tokenizers)


class _WithRows(nn.Module):
    """A frozen embedding that answers the token ids `ids` (K,), ascending, with a span of `rows` (K, D).

    It shares its weight. scale: what the embedding multiplies rows of its weight by.
    """

    def __init__(
        self, frozen: nn.Embedding, ids: Tensor, rows: Tensor, span: slice, scale: float
    ) -> None:
        super().__init__()
        self.weight = frozen.weight
        self.look_up = frozen.__call__
        self.ids = ids
        self.rows = rows
        self.span = span
        self.scale = scale

    def forward(self, input_ids: Tensor) -> Tensor:
        """(N, L) token ids -> (N, L, width of the span)."""
        ids = self.ids.to(input_ids.device)  # which the network may come to only now
        places = torch.searchsorted(ids, input_ids).clamp(max=len(ids) - 1)
        is_learned = ids[places] == input_ids
        frozen = self.look_up(input_ids.masked_fill(is_learned, 0))
        learned = self.rows[:, self.span][places.to(self.rows.device)]
        learned = learned.to(frozen.device, frozen.dtype)
        return torch.where(
            is_learned[..., None], learned if self.scale == 1 else learned * self.scale, frozen
        )


def _speaking(encoder: TextEncoder, table: TokenTable, prior: str) -> Any:
    """A tokenizer that knows the table's placeholders as well."""
    tokenizer = copy.deepcopy(encoder.tokenizer)
    if tokenizer.add_tokens(list(table.names)) < len(table.names):
        raise TokenFileError(
            f"the tokenizer of prior {prior!r} already knows some of {', '.join(table.names)}, expected new words: "
            "load the prior without textual inversions of these names."
        )
    return tokenizer


@contextmanager
def _reading(encoder: TextEncoder, ids: list[int], rows: Tensor, span: slice) -> Iterator[None]:
    """Inside the block an encoder reads a span of `rows` for these ids."""
    frozen = encoder.module.get_input_embeddings()
    places = torch.tensor(ids, device=frozen.weight.device)
    try:
        encoder.module.set_input_embeddings(
            _WithRows(frozen, places, rows, span, encoder.row_scale)
        )
        yield
    finally:
        encoder.module.set_input_embeddings(frozen)


@contextmanager
def _ending(network: nn.Module, end: int) -> Iterator[None]:
    """Inside the block an encoder of the old kind takes its pooled output where a prompt ends, as without tokens.

    Left alone, it would take that of the placeholder (diffusers issue 10754).
    """
    old: list[Any] = [
        part for part in network.modules() if getattr(part, "eos_token_id", None) == LEGACY_EOS
    ]
    try:
        for part in old:
            part.eos_token_id = end
        yield
    finally:
        for part in old:
            part.eos_token_id = LEGACY_EOS
