"""Which kernel computes attention, set where Stable Diffusion's networks look it up: their attention processors.

`UNet2DConditionModel.set_attention_backend()` is for newer networks, and changes nothing here without a word.
"""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import cache
from importlib.util import find_spec

import torch
from diffusers.models.attention_processor import (
    Attention,
    AttnProcessor,
    AttnProcessor2_0,
    XFormersAttnProcessor,
)
from torch import nn

from engine.errors import ConfigError, MissingExtraError
from engine.networks.frozen import seeded
from engine.settings import AUTO_ATTENTION

PROCESSORS = {"sdpa": AttnProcessor2_0, "xformers": XFormersAttnProcessor, "vanilla": AttnProcessor}
"""sdpa: torch's fused attention, on any device. xformers: CUDA only. vanilla: whole matrices, for comparison."""


def chosen_attention(attention: str, device: torch.device, dtype: torch.dtype) -> str:
    """The backend that was asked for; of "auto" xformers, where it is installed and has a kernel for the device.

    By this rule and not by timing, since another kernel changes the last bits of a step: two equal GPUs that timed them
    differently would make different images. A plan for a GPU that is not in this machine has SDPA. Raises as
    `check_attention`.
    """
    if attention != AUTO_ATTENTION:
        check_attention(attention, device)
        return attention
    if device.type != "cuda" or not torch.cuda.is_available() or find_spec("xformers") is None:
        return "sdpa"
    return "xformers" if runs("xformers", device, dtype) else "sdpa"


@cache
def runs(attention: str, device: torch.device, dtype: torch.dtype) -> bool:
    """Whether a backend has a kernel for a device and a dtype, tried on a layer of Stable Diffusion: 5 heads of 64."""
    width, heads = 320, 5
    with seeded():
        layer = Attention(
            width, heads=heads, dim_head=width // heads, processor=PROCESSORS[attention]()
        )
    tokens = torch.zeros(2, 64, width, device=device, dtype=dtype)
    try:
        with torch.no_grad():
            layer.to(device, dtype).eval()(tokens)
    except (NotImplementedError, RuntimeError, ValueError):  # as xformers says that it has none
        return False
    return True


def check_attention(attention: str, device: torch.device) -> None:
    """Raise ConfigError for an unknown backend or a device it does not serve, MissingExtraError without its extra."""
    if attention not in PROCESSORS:
        known = (AUTO_ATTENTION, *PROCESSORS)
        raise ConfigError(
            f"attention is {attention!r}, expected one of {', '.join(map(repr, known))}: choose one of these."
        )
    if attention == "xformers" and device.type != "cuda":
        raise ConfigError(
            f"attention is 'xformers' on {device}, expected a CUDA device: its kernels refuse any other. Choose 'sdpa'."
        )
    if attention == "xformers" and find_spec("xformers") is None:
        raise MissingExtraError(
            "attention is 'xformers' and the package is not installed, expected it in this environment: "
            "`pip install 'ddis[gpu]'`, or choose 'sdpa', which needs nothing."
        )


@contextmanager
def attending(
    networks: Sequence[nn.Module], attention: str, device: torch.device
) -> Iterator[None]:
    """Compute the attention of these networks with one backend inside the block; what they had comes back after it.

    Layers with a processor of another kind, such as an adapter's, keep it.
    """
    check_attention(attention, device)
    with ExitStack() as restored:
        for layer in (
            part
            for network in networks
            for part in network.modules()
            if isinstance(part, Attention)
        ):
            if type(layer.processor) in PROCESSORS.values():
                restored.callback(layer.set_processor, layer.processor)
                layer.set_processor(PROCESSORS[attention]())
        yield
