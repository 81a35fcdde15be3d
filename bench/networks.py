"""Whole networks: L_BN with its gradient by the image, over a plain forward pass with the gradient by the image.

    python bench/networks.py                          ResNet-34, 224 px, batch 8; `bench/studies sweep` runs it too
    python bench/networks.py --network embedded:cartoon --batch 28   what `ddis demo` guides with
    python bench/networks.py --px 64 --batch 2        something small

`fused` is `engine.guidance.domain.Domain`, `hook` what public implementations of DeepInversion's loss do. Times are
medians of rounds in which all take their turn; each peak of main memory is the least of PROCESSES of its own, since
what an allocator happens to keep only adds to it.
"""

import argparse
import json
import subprocess
import sys
from typing import Any

import torch
from contenders import Run, hook_moments
from timing import median_ratios, peak_bytes, resident_peak_bytes
from torch import Tensor, nn
from torch.linalg import vector_norm
from transformers import ResNetConfig, ResNetForImageClassification

from engine.classifiers import load_classifier
from engine.classifiers.architectures import RESIDUAL
from engine.classifiers.base import logits_of
from engine.classifiers.preprocess import Preprocess
from engine.classifiers.statistics import Examined, Statistics
from engine.classifiers.statistics.batch_norm import batch_norm
from engine.classifiers.untrained import measure_statistics
from engine.guidance.domain import Domain

LAYOUTS = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last}
WARM_PX = 32
PROCESSES = 3
NETWORKS = [f"ResNet-{depth}" for depth in RESIDUAL]
NETWORKS += [f"embedded:{domain}" for domain in ("art_painting", "cartoon", "photo", "sketch")]


def resnet(depth: int, px: int) -> nn.Module:
    """A ResNet with random weights, and statistics of images of `px` that keep its activations of order one."""
    torch.manual_seed(depth)
    layer_type = "bottleneck" if depth >= 50 else "basic"
    sizes = [64, 128, 256, 512] if depth < 50 else [256, 512, 1024, 2048]
    network = ResNetForImageClassification(
        ResNetConfig(
            depths=list(RESIDUAL[depth]), hidden_sizes=sizes, layer_type=layer_type, num_labels=1000
        )
    )
    return measure_statistics(network, Preprocess.squash(px)).requires_grad_(False)


def contenders(network: nn.Module, x: Tensor) -> dict[str, Run]:
    """Each makes the gradient of its loss by images x: (N, 3, H, W)."""
    own = Examined(network, lambda: network(x[:1]), Preprocess.squash(x.shape[-1]))
    statistics = batch_norm(own)
    assert isinstance(statistics, Statistics)
    layers, domain = [tap.layer for tap in statistics.taps], Domain.of(network, statistics)

    def plain() -> Tensor:
        leaf = x.detach().requires_grad_()
        return torch.autograd.grad(logits_of(network, leaf).sum(), leaf)[0]

    def fused() -> Tensor:
        leaf = x.detach().requires_grad_()
        with domain.watched() as loss:
            network(leaf)
            return torch.autograd.grad(loss(), leaf)[0]

    def hook() -> Tensor:
        leaf, terms = x.detach().requires_grad_(), []

        def measure(layer: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            mean, var = hook_moments(inputs[0])
            terms.append(
                vector_norm(mean - layer.running_mean) + vector_norm(var - layer.running_var)
            )

        hooks = [layer.register_forward_pre_hook(measure) for layer in layers]
        network(leaf)
        for handle in hooks:
            handle.remove()
        return torch.autograd.grad(torch.stack(terms).sum(), leaf)[0]

    return {"plain": plain, "fused": fused, "hook": hook}


def case(device: str, name: str, px: int, batch: int, layout: str) -> tuple[nn.Module, Tensor]:
    """The network and its images, of `px` or an embedded network's own size: float32 on the CPU, float16 on CUDA."""
    dtype = torch.float16 if device == "cuda" else torch.float32
    depth = name.removeprefix("ResNet-")
    if depth != name:
        network = resnet(int(depth), px)
    else:
        classifier = load_classifier(name, device=device)
        network, px = classifier.network, classifier.input_px
    network = network.to(device, dtype, memory_format=LAYOUTS[layout])
    x = torch.randn(batch, 3, px, px).to(device, dtype, memory_format=LAYOUTS[layout])
    return network, x


def measured_network(
    device: str,
    name: str = "ResNet-34",
    px: int = 224,
    batch: int = 8,
    rounds: int = 9,
    layout: str = "contiguous",
) -> dict[str, Any]:
    """One row of the result: times, ratios to `plain` and peak bytes of each contender."""
    network, x = case(device, name, px, batch, layout)
    runs = contenders(network, x)
    measured = median_ratios(runs, "plain", device, rounds)
    for contender, run in runs.items():
        alone = [
            __file__,
            "--device",
            device,
            "--network",
            name,
            "--px",
            px,
            "--batch",
            batch,
            "--layout",
            layout,
            "--threads",
            torch.get_num_threads(),
            "--peak",
            contender,
        ]
        measured[contender]["peak_bytes"] = (
            peak_bytes(run, device) if device == "cuda" else _least_said_by(list(map(str, alone)))
        )
    dtype = str(x.dtype).removeprefix("torch.")
    row = {
        "network": name,
        "shape": list(x.shape),
        "dtype": dtype,
        "layout": layout,
        "runs": measured,
    }
    print(row, flush=True)
    return row


def measured_networks(device: str) -> list[dict[str, Any]]:
    """The network of the claims in both layouts, and the classifier that `ddis demo` guides with."""
    embedded = {"name": "embedded:cartoon", "batch": 28, "rounds": 29}
    return [
        *(measured_network(device, layout=layout) for layout in LAYOUTS),
        measured_network(device, **embedded),
    ]


def _least_said_by(arguments: list[str]) -> int | None:
    command = [sys.executable, *arguments]
    said = [
        subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
        for _ in range(PROCESSES)
    ]
    peaks = [json.loads(done.stdout) for done in said]
    return None if None in peaks else min(peaks)


def peak_alone(options: argparse.Namespace) -> int | None:
    """Peak of one contender in this process, after a tiny image has loaded the code."""
    network, x = case(options.device, options.network, options.px, options.batch, options.layout)
    contenders(network, x[:1, :, :WARM_PX, :WARM_PX])[options.peak]()
    return resident_peak_bytes(contenders(network, x)[options.peak])


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--network", default="ResNet-34", choices=NETWORKS)
    parser.add_argument("--px", type=int, default=224, help="embedded networks read their own size")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--layout", default="contiguous", choices=list(LAYOUTS))
    parser.add_argument("--threads", type=int, default=min(2, torch.get_num_threads()))
    parser.add_argument(
        "--peak", choices=["plain", "fused", "hook"], help="only print this contender's peak bytes"
    )
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.peak:
        print(json.dumps(peak_alone(options)))
    else:
        measured_network(
            options.device,
            options.network,
            options.px,
            options.batch,
            options.rounds,
            options.layout,
        )
