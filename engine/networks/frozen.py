"""What priors and classifiers share: frozen modules, their device, and a fingerprint of what they compute."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from hashlib import blake2b

import torch
from torch import Tensor, nn

from engine.errors import ConfigError
from engine.settings import DTYPES

PROBES = 16
PRECISE = "_keep_in_fp32_modules"
"""Attribute of networks that names their layers which overflow in float16."""


def default_device(device: str | torch.device | None) -> torch.device:
    """The device asked for; if none is, the GPU where there is one. Raises ConfigError for one that is not there."""
    if device is None:
        return indexed(torch.device("cuda" if torch.cuda.is_available() else "cpu"))
    chosen = named_device(device)
    there = torch.cuda.device_count()
    if chosen.type == "cuda" and not there:
        raise ConfigError(
            f"device is {str(device)!r} and torch sees no CUDA device here, expected one: choose 'cpu', or install the "
            "CUDA build of torch and NVIDIA's driver."
        )
    if chosen.type == "cuda" and (chosen.index or 0) >= there:
        raise ConfigError(
            f"device is {str(device)!r}, expected 'cuda:<number>' below {there}, the number of this machine's CUDA "
            "devices: choose one of these, or 'cpu'."
        )
    return indexed(chosen)


def indexed(device: torch.device) -> torch.device:
    """A CUDA device of this machine with its number, any other device as it is.

    Some calls of torch, `set_per_process_memory_fraction` among them, refuse a bare "cuda".
    """
    if str(device) == "cuda" and torch.cuda.is_available():
        return torch.device("cuda", torch.cuda.current_device())
    return device


def named_device(device: str | torch.device) -> torch.device:
    """The device of a name, whether or not it is in this machine. Raises ConfigError for a name of none."""
    try:
        return torch.device(device)
    except RuntimeError as error:
        raise ConfigError(
            f"device is {str(device)!r}, expected 'cpu', 'cuda' or 'cuda:<number>': check the spelling."
        ) from error


def named_dtype(dtype: torch.dtype | str, device: torch.device) -> torch.dtype:
    """The dtype of a name in DTYPES; 'auto' is float16 on a GPU and float32 on the CPU. Raises ConfigError."""
    if isinstance(dtype, torch.dtype):
        dtype = str(dtype).removeprefix("torch.")
    if dtype == "auto":
        return torch.float16 if device.type == "cuda" else torch.float32
    if dtype not in DTYPES:
        raise ConfigError(
            f"dtype is {dtype!r}, expected one of {', '.join(DTYPES)}: choose one of these."
        )
    return getattr(torch, dtype)


@contextmanager
def seeded() -> Iterator[None]:
    """Random weights made in the block are the same each time, so that a cut run on an architecture alone can go on."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield


def freeze(module: nn.Module) -> nn.Module:
    """The module in evaluation mode, without gradients of its own parameters. Gradients still pass through it."""
    return module.eval().requires_grad_(False)


def cast(network: nn.Module, dtype: torch.dtype) -> nn.Module:
    """A network of diffusers or transformers, cast to a dtype; in float16 all but what overflows in it.

    Libraries keep that in float32 where they read a file (T5's `wo`), and cast it like the rest where a loaded network
    is cast.
    """
    precise = getattr(network, PRECISE, None) or ()
    if dtype != torch.float16 or not precise:
        return network.to(dtype)
    kept = {
        id(value)
        for path, part in network.named_modules()
        if any(name in precise for name in path.split("."))
        for value in part.parameters()
    }
    for value in (*network.parameters(), *network.buffers()):
        if value.is_floating_point():
            value.data = value.data.to(torch.float32 if id(value) in kept else dtype)
    return network


def fingerprint(modules: Iterable[nn.Module], *facts: object) -> str:
    """16 hex digits that tell one model from another: `facts`, and a few values of each weight.

    Reads 16 values of each tensor, rounded to float16, so that it costs little at any size and is equal for a float32
    model and its float16 copy. On 'meta' there are shapes alone.
    """
    digest = blake2b(repr(facts).encode(), digest_size=8)
    for module in modules:
        for name, value in sorted(module.state_dict().items()):
            digest.update(f"{name}{tuple(value.shape)}".encode())
            if not value.is_meta:
                digest.update(_probe(value).numpy().tobytes())
    return digest.hexdigest()


def _probe(value: Tensor) -> Tensor:
    flat = value.detach().flatten()
    return flat[:: max(1, flat.numel() // PROBES)][:PROBES].to("cpu", torch.float16)
