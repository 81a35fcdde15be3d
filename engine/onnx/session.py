"""Sampling on ONNX Runtime: a prior whose networks are sessions, and the gradient of guidance without autograd."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy
import torch
from torch import Tensor

from engine.classifiers.base import Classifier
from engine.errors import ConfigError, ModelError, brief
from engine.guidance.decoder import GuidanceDecoder
from engine.onnx.export import exported, installed
from engine.onnx.graphs import Graph, decoder_graph, denoiser_graph, gradient_graph
from engine.onnx.probe import tensors_of
from engine.priors import Prior
from engine.settings import Alignment

Descend = Callable[..., tuple[Tensor, Tensor]]
"""(latents (N, ...), classes (N,)) -> loss (G,) and its gradient by the latents."""
DTYPES = {
    "tensor(float)": torch.float32,
    "tensor(float16)": torch.float16,
    "tensor(int64)": torch.int64,
}
OUT_OF_MEMORY = ("failed to allocate memory", "out of memory", "bad_alloc", "bad allocation")
"""What ONNX Runtime says, in small letters, in errors that have no class of their own."""
PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}


class Session:
    """One ONNX file on one device. It reads and writes torch's memory: nothing is copied."""

    def __init__(self, file: Path, device: torch.device) -> None:
        runtime = installed("onnxruntime")
        options = runtime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        options.log_severity_level = 3
        wanted = PROVIDERS[device.type]
        choice: Any = (
            (wanted, {"device_id": device.index or 0}) if device.type == "cuda" else wanted
        )
        try:
            self.session = runtime.InferenceSession(
                str(file), options, providers=list(dict.fromkeys([choice, PROVIDERS["cpu"]]))
            )
        except _failures(runtime) as error:
            raise ModelError(
                f"{file} cannot be run by ONNX Runtime ({brief(error)}), expected a whole graph of this version: "
                f"delete the folder {file.parent}, and it is written again."
            ) from error
        if self.session.get_providers()[0] != wanted:
            raise ConfigError(
                f"ONNX Runtime offers {', '.join(self.session.get_providers())} here, expected {wanted} for device "
                f"'{device}': install onnxruntime-gpu and the CUDA libraries it names, or choose device 'cpu'."
            )
        self.device = device
        self.names = tuple(value.name for value in self.session.get_inputs())
        self.dtypes = tuple(DTYPES[value.type] for value in self.session.get_inputs())

    def __call__(self, *inputs: Tensor) -> list[Tensor]:
        """Outputs for inputs in the graph's order, which are converted to its dtypes.

        An axis of no fixed size has that of the first input's batch.
        """
        binding = self.session.io_binding()
        kept = [
            value.detach().to(kind).contiguous()
            for value, kind in zip(inputs, self.dtypes, strict=True)
        ]
        for name, value in zip(self.names, kept, strict=True):
            binding.bind_input(name, *self._memory(value))
        outputs = []
        for output in self.session.get_outputs():
            shape = [size if isinstance(size, int) else len(inputs[0]) for size in output.shape]
            outputs.append(torch.empty(shape, dtype=DTYPES[output.type], device=self.device))
            binding.bind_output(output.name, *self._memory(outputs[-1]))
        if self.device.type == "cuda":
            torch.cuda.current_stream(self.device).synchronize()
        try:
            self.session.run_with_iobinding(binding)
        except _failures(installed("onnxruntime")) as error:
            if any(words in str(error).lower() for words in OUT_OF_MEMORY):
                raise MemoryError(brief(error)) from error
            raise
        return outputs

    def _memory(self, value: Tensor) -> tuple[Any, ...]:
        kind = getattr(numpy, str(value.dtype).removeprefix("torch."))
        return self.device.type, self.device.index or 0, kind, tuple(value.shape), value.data_ptr()


class StandIn:
    """A network whose work a session does. network: what is asked for everything else."""

    def __init__(self, network: Any, session: Session) -> None:
        self.network = network
        self.session = session

    def __getattr__(self, name: str) -> Any:
        return getattr(self.__dict__["network"], name)


class OnnxDenoiser(StandIn):
    """Stands in a denoiser's place."""

    def __call__(self, *args: Any, **kwargs: Any) -> tuple[Tensor]:
        z, *others = tensors_of(*args, **kwargs)
        return (self.session(z, *others)[0].to(z.dtype),)


class OnnxDecoder(StandIn):
    """Stands in a VAE's place to decode; a gradient is torch's."""

    def decode(self, latents: Tensor, return_dict: bool = True) -> Any:
        if return_dict or (torch.is_grad_enabled() and latents.requires_grad):
            return self.network.decode(latents, return_dict=return_dict)
        return (self.session(latents)[0].to(latents.dtype),)


def onnx_prior(prior: Prior, cache: Path) -> Prior:
    """The prior on ONNX Runtime, on the device that it is on; `cache` keeps its graphs.

    Its denoiser and its decoder of final images are sessions; text encoders stay torch's.
    """
    kinds: dict[str, tuple[type[StandIn], Callable[[Prior], Graph]]] = {
        "denoiser": (OnnxDenoiser, denoiser_graph),
        "decoder": (OnnxDecoder, decoder_graph),
    }
    parts = {}
    for part in prior.components():
        if part.role in kinds:
            stand_in, graph_of = kinds[part.role]
            session = Session(exported(graph_of(prior), cache), prior.device)
            parts[part.name] = stand_in(part.module, session)
    return prior.replaced(**parts)


def onnx_descend(
    prior: Prior,
    classifier: Classifier,
    alignment: Alignment,
    decoder: GuidanceDecoder,
    cache: Path,
) -> Descend:
    """What `Guidance` descends with in place of autograd."""
    session = Session(
        exported(gradient_graph(prior, classifier, alignment, decoder), cache), prior.device
    )

    def descend(z: Tensor, classes: Tensor) -> tuple[Tensor, Tensor]:
        loss, gradient = session(z, classes) if alignment.class_weight else session(z)
        return loss.float(), gradient.to(z.dtype)

    return descend


def _failures(runtime: Any) -> tuple[type[Exception], ...]:
    """What onnxruntime raises for files that are damaged or of another version, and where memory runs out."""
    kinds = runtime.capi.onnxruntime_pybind11_state
    return (
        RuntimeError,
        kinds.Fail,
        kinds.InvalidProtobuf,
        kinds.InvalidGraph,
        kinds.NoSuchFile,
        kinds.NotImplemented,
        kinds.RuntimeException,
    )
