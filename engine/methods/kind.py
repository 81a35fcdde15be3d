"""The kind of a worker: what decides, besides the request, which bytes come out.

Guided sampling is chaotic. A difference in the last bit of one step, such as another number of threads, instruction
set, kernel or micro-batch makes, grows over the steps into another image of the same distribution. So the promise is:
the same request on the same kind of worker gives the same bytes. What a kind is cannot be listed in full, so it is
tried: a canary, the first group in a few steps, whose images and logits are hashed.
"""

import platform
from dataclasses import asdict, dataclass
from hashlib import sha256
from typing import Any

import torch
from ddis_kernels import choose

from engine.events import SILENT
from engine.methods.base import Prepared


@dataclass(frozen=True, kw_only=True)
class Kind:
    """What a worker is.

    canary: hash of what it makes of a request in a few steps, the only part that is compared; "" where that was not
    tried. reproducible: whether a second try gave the same. The rest explains a difference to a person: device,
    processor and its instruction set, threads, the kernels that serve it, and how many images go through each phase at
    once.
    """

    canary: str
    reproducible: bool
    device: str
    processor: str
    instructions: str
    threads: int
    torch: str
    kernels: str
    micro_batch: dict[str, int]

    def to_json(self) -> dict[str, Any]:
        """The kind as values that JSON can hold."""
        return asdict(self)


def kind_of(prepared: Prepared, tried: bool = True) -> Kind:
    """The kind of this process for a request. tried: whether to run the canary, which takes about a second."""
    device = prepared.device
    canaries = (
        [canary_of(prepared) for _ in range(2 if device.type == "cuda" else 1)] if tried else [""]
    )
    return Kind(
        canary=canaries[0],
        reproducible=len({*canaries}) == 1,
        device=torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        processor=platform.machine(),
        instructions=torch.backends.cpu.get_cpu_capability(),
        threads=torch.get_num_threads(),
        torch=torch.__version__,
        kernels=choose(torch.empty(0, device=device)),
        micro_batch={} if prepared.micro_batches is None else dict(prepared.micro_batches.sizes),
    )


def canary_of(prepared: Prepared) -> str:
    """12 hexadecimal digits: the hash of the images and logits of the first group, made in a few steps."""
    short = prepared.canary()
    digest = sha256()
    for sample in short.make(short.groups()[0], SILENT):
        for value in (sample.image, sample.logits):
            digest.update(value.contiguous().numpy().tobytes())
    return digest.hexdigest()[:12]
