"""What computes the networks of a request: torch, or ONNX Runtime."""

import os
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from engine.classifiers import Classifier
from engine.errors import ConfigError
from engine.guidance.assembly import Descent
from engine.guidance.decoder import GuidanceDecoder
from engine.guidance.gradient import Scale
from engine.priors import Prior
from engine.settings import Alignment

Runtime = Literal["torch", "onnx"]


def default_cache() -> Path:
    """Where exported graphs are kept unless another folder is named: below the user's cache folder."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "ddis" / "onnx"


def engines(
    runtime: Runtime,
    prior: Prior,
    classifier: Classifier,
    alignment: Alignment | None,
    decoder: GuidanceDecoder | None,
    cache: str | Path | None = None,
) -> tuple[Prior, Descent | None]:
    """The prior that samples, and what guidance descends with: None for autograd, or without guidance.

    With "onnx" the graphs are exported into `cache`, unless they are there. The graph of guidance takes whole batches:
    where a budget or memory has room for a part alone, autograd makes the same gradient in parts.
    """
    if runtime == "torch":
        return prior, None
    if prior.dtype == torch.bfloat16 or classifier.dtype == torch.bfloat16:
        raise ConfigError(
            "runtime is 'onnx' with networks in bfloat16, expected float32 or float16: ONNX Runtime's arrays have no "
            "bfloat16. Load them with another dtype."
        )
    from engine.onnx.session import onnx_descend, onnx_prior

    folder = Path(cache).expanduser() if cache is not None else default_cache()
    descend: Descent | None = None
    if alignment is not None and decoder is not None:
        by_graph = onnx_descend(prior, classifier, alignment, decoder, folder)

        def descend(z: Tensor, _: Scale, classes: Tensor) -> tuple[Tensor, Tensor]:
            return by_graph(z, classes)  # which has a scale of its own

    return onnx_prior(prior, folder), descend
