"""A checksum of what a safetensors file holds: the format has none, and a flipped bit is a number like any other."""

from collections.abc import Mapping
from hashlib import sha256

import torch
from torch import Tensor


def digest_of(tensors: Mapping[str, Tensor], facts: str) -> str:
    """SHA-256 of named tensors and of the text that is kept with them, as hex digits."""
    digest = sha256(facts.encode())
    for name in sorted(tensors):
        values = tensors[name].detach().cpu().contiguous()
        digest.update(f"\n{name} {values.dtype} {tuple(values.shape)}\n".encode())
        digest.update(values.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
