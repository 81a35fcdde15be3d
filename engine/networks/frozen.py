"""What priors and classifiers share: frozen modules, their device, and a fingerprint of what they compute."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from hashlib import blake2b

import torch
from torch import Tensor, nn

from engine.errors import ConfigError
from engine.settings import DTYPES
from engine.settings.sources import check_device

PROBES = 16
PRECISE = "_keep_in_fp32_modules"
"""Attribute of networks that names their layers which overflow in float16."""
OVERFLOWING = ("AutoencoderDC", "Gemma2", "Lumina2", "Qwen", "ZImage")
"""How the classes begin whose activations leave the range of float16: networks that are published in bfloat16."""


def default_device(device: str | torch.device | None) -> torch.device:
    """The device asked for; if none is, the GPU where there is one. Raises ConfigError for one that is not there."""
    if device is None:
        return indexed(torch.device("cuda" if torch.cuda.is_available() else "cpu"))
    chosen = named_device(device)
    if chosen.type != "meta":  # there models have shapes and no values
        check_device(str(device))
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
    """The dtype of a name in DTYPES; 'auto' is the device's fastest. Raises ConfigError."""
    if isinstance(dtype, torch.dtype):
        dtype = str(dtype).removeprefix("torch.")
    if dtype == "auto":
        if device.type == "cuda":
            return torch.float16
        return torch.bfloat16 if device.type == "cpu" and multiplies_bfloat16() else torch.float32
    if dtype not in DTYPES:
        raise ConfigError(
            f"dtype is {dtype!r}, expected one of {', '.join(DTYPES)}: choose one of these."
        )
    return getattr(torch, dtype)


def multiplies_bfloat16() -> bool:
    """Whether this machine's processor has instructions for it; without, bfloat16 is slower than float32."""
    if not hasattr(torch.cpu, "get_capabilities"):  # as in the oldest torch that is supported
        return False
    found = torch.cpu.get_capabilities()
    return any(found.get(name, False) for name in ("amx_bf16", "avx512_bf16"))


@contextmanager
def seeded() -> Iterator[None]:
    """Random weights made in the block are the same each time, so that a cut run on an architecture alone can go on."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield


def freeze(module: nn.Module) -> nn.Module:
    """The module in evaluation mode, without gradients of its own parameters. Gradients still pass through it."""
    module.eval()
    for parameter in module.parameters():  # `requires_grad_` of a TorchScript module refuses
        parameter.requires_grad_(False)
    return module


def safe_dtype(kind: type, dtype: torch.dtype) -> torch.dtype:
    """The dtype for a class of networks where `dtype` is asked for: bfloat16 for float16 where that overflows."""
    overflows = dtype == torch.float16 and kind.__name__.startswith(OVERFLOWING)
    return torch.bfloat16 if overflows else dtype


def cast_dtypes(network: nn.Module, dtype: torch.dtype) -> dict[int, torch.dtype]:
    """The dtype of each floating-point parameter and buffer, by id, of a network that is cast to `dtype`.

    In float16, layers that overflow stay float32 (T5's `wo`), and networks that overflow as a whole are bfloat16.
    """
    chosen = safe_dtype(type(network), dtype)
    precise = getattr(network, PRECISE, None) or ()
    found = {
        id(value): chosen
        for value in (*network.parameters(), *network.buffers())
        if value.is_floating_point()
    }
    if chosen != torch.float16:
        return found
    for path, part in network.named_modules():
        if any(name in precise for name in path.split(".")):
            found |= {id(value): torch.float32 for value in part.parameters()}
    return found


def cast(network: nn.Module, dtype: torch.dtype) -> nn.Module:
    """A network of diffusers or transformers, cast to a dtype but for what overflows in it.

    Libraries spare that where they read a file, and cast it like the rest where a loaded network is cast.
    """
    chosen = cast_dtypes(network, dtype)
    if len({*chosen.values()}) == 1:
        return network.to(next(iter(chosen.values())))
    for value in (*network.parameters(), *network.buffers()):
        if id(value) in chosen:
            value.data = value.data.to(chosen[id(value)])
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
