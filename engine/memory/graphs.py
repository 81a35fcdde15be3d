"""Work that repeats with equal shapes, recorded once as a CUDA graph and replayed: the host then launches one thing.

A graph holds all memory of its work between replays. `eager_because` decides whether there is room for that.
"""

from collections.abc import Callable, Hashable, Iterator, Mapping
from contextlib import contextmanager
from types import MappingProxyType
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor
from torch.utils._pytree import TreeSpec, tree_flatten, tree_unflatten

from engine.errors import ModelError, brief, counted
from engine.guidance.assembly import Descent
from engine.guidance.gradient import Scale
from engine.memory.budget import in_words
from engine.priors import Prior

EAGER_CALLS = 2
"""Calls of one shape that run as they are. They warm up (compile kernels, pair layers, fill caches), and work that
does not come back is never recorded."""
REPLAYED = ("sampling", "guidance")
"""The phases whose work is recorded."""
Tensors = tuple[Tensor, ...]
Work = Callable[..., Tensors]


class GraphBackend(Protocol):
    """The calls of CUDA that are made here, so that a test can put others in their place."""

    def warm_up(self, work: Callable[[], object]) -> None:
        """Run work where it will be recorded. Raises RuntimeError where the host would wait for the device in it."""
        ...

    def record(self, work: Callable[[], Tensors]) -> tuple[Tensors, Callable[[], None]]:
        """What work gives, in memory of its own, and a function that computes it there again."""
        ...


class CudaGraphs:
    """The graphs of one device, which share their memory: no two run at once, and results are copied out of it."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.stream = torch.cuda.Stream(device)
        self.pool = torch.cuda.graph_pool_handle()

    def warm_up(self, work: Callable[[], object]) -> None:
        now = torch.cuda.current_stream(self.device)
        self.stream.wait_stream(now)
        with torch.cuda.stream(self.stream), _refusing_to_wait():
            work()
        now.wait_stream(self.stream)

    def record(self, work: Callable[[], Tensors]) -> tuple[Tensors, Callable[[], None]]:
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self.pool, stream=self.stream):
            results = work()
        return results, graph.replay


def backend_of(device: torch.device) -> GraphBackend:
    """What records and replays on a device."""
    return CudaGraphs(device)


@contextmanager
def _refusing_to_wait() -> Iterator[None]:
    """Let torch raise RuntimeError inside the block wherever the host would wait for the device."""
    before = torch.cuda.get_sync_debug_mode()
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode(before)


class _Recorded(NamedTuple):
    """work: kept, since the graph reads the weights and constants that it holds."""

    inputs: Tensors
    results: Tensors
    replay: Callable[[], None]
    work: Work


class Graphs:
    """The recorded work of one run. It is bound to the weights as they lie in memory: none may move meanwhile."""

    def __init__(self, backend: GraphBackend) -> None:
        self.backend: GraphBackend | None = backend
        self._calls: dict[Hashable, int] = {}
        self._recorded: dict[Hashable, _Recorded] = {}

    def call(self, name: str, work: Work, *inputs: Tensor, call: Hashable = None) -> Tensors:
        """`work(*inputs)`: run for the first times that a name comes with such shapes, then recorded and replayed.

        work: gives the same for the same inputs, reads no other tensors that change, and never waits for the device.
        call: what else tells work of this name apart. Raises ModelError where it waits. The results hold no graph of
        autograd.
        """
        key = (name, call, *((x.shape, x.stride(), x.dtype, x.device) for x in inputs))
        self._calls[key] = self._calls.get(key, 0) + 1
        if self.backend is None or self._calls[key] <= EAGER_CALLS:
            return work(*inputs)
        if key not in self._recorded:
            self._recorded[key] = self._record(self.backend, name, work, inputs)
        there = self._recorded[key]
        for kept, value in zip(there.inputs, inputs, strict=True):
            kept.copy_(value)
        there.replay()
        return tuple(result.clone() for result in there.results)

    def release(self) -> bool:
        """Give back the memory of all graphs and record no more; False where that was done before."""
        held, self.backend = self.backend is not None, None
        self._recorded.clear()
        return held

    def _record(self, backend: GraphBackend, name: str, work: Work, inputs: Tensors) -> _Recorded:
        kept = tuple(value.detach().clone() for value in inputs)
        try:
            backend.warm_up(lambda: work(*kept))
            results, replay = backend.record(lambda: work(*kept))
        except RuntimeError as error:
            if not any(words in str(error) for words in ("synchroniz", "captur")):
                raise
            raise ModelError(
                f"{name} cannot be recorded as a CUDA graph ({brief(error)}), expected work that never waits for the "
                "device: run without `graphs`, which computes the same."
            ) from error
        return _Recorded(kept, results, replay, work)


class GraphedNetwork:
    """Stands in a denoiser's place, and is replayed where no gradient passes it.

    network: what is asked for everything else. The work is recorded once for each kind of call: arguments that are no
    tensors are part of the recording.
    """

    def __init__(self, network: Any, graphs: Graphs) -> None:
        self.network = network
        self.graphs = graphs
        self._forms: dict[Hashable, TreeSpec] = {}

    def __getattr__(self, name: str) -> Any:
        return getattr(self.__dict__["network"], name)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if torch.is_grad_enabled():
            return self.network(*args, **kwargs)
        leaves, form = tree_flatten((args, kwargs))
        places = [place for place, leaf in enumerate(leaves) if isinstance(leaf, Tensor)]
        fixed = [None if isinstance(leaf, Tensor) else leaf for leaf in leaves]
        call = str(form), repr(fixed)

        def work(*inputs: Tensor) -> Tensors:
            filled = dict(zip(places, inputs, strict=True))
            given = [filled.get(place, leaf) for place, leaf in enumerate(fixed)]
            args, kwargs = tree_unflatten(given, form)
            results, self._forms[call] = tree_flatten(self.network(*args, **kwargs))
            return tuple(results)

        tensors = (leaves[place] for place in places)
        found = self.graphs.call("sampling", work, *tensors, call=call)
        return tree_unflatten(found, self._forms[call])


def graphed_prior(prior: Prior, graphs: Graphs) -> Prior:
    """The prior with its denoiser's work in `graphs`."""
    denoisers = (part for part in prior.components() if part.role == "denoiser")
    return prior.replaced(**{part.name: GraphedNetwork(part.module, graphs) for part in denoisers})


def eager_because(
    wanted: bool,
    device: torch.device,
    learning: bool,
    batch: int,
    micro_batch: Mapping[str, int],
    checkpoint: tuple[str, ...],
    offload: tuple[str, ...],
    limit: int | None = None,
    held: int = 0,
    peaks: Mapping[str, int] = MappingProxyType({}),
) -> str:
    """Why a run replays no CUDA graphs, or "" where it may: what saves memory, and graphs, which hold it, don't mix.

    Args:
        wanted: False where the caller switched them off.
        device: of the networks.
        learning: whether tokens are learned.
        batch: the images that are sampled together.
        micro_batch: how many of them go through each phase at once.
        checkpoint: phases whose backward recomputes activations.
        offload: parts that are on the device only while they work.
        limit: what may be used, in bytes; None where memory is plentiful.
        held: what the graphs hold between replays, in bytes.
        peaks: the predicted peak of each phase without graphs, in bytes.
    """
    if not wanted:
        return "they are switched off"
    if device.type != "cuda":
        return "they need a CUDA device"
    if learning:
        return "tokens are learned, and gradients pass the denoiser"
    parts = [phase for phase in REPLAYED if micro_batch.get(phase, batch) < batch]
    if parts:
        return f"{parts[0]} goes in parts of {micro_batch[parts[0]]} of {counted(batch, 'image')}"
    if "guidance" in checkpoint:
        return "guidance recomputes its decoder's activations to save memory"
    if offload:
        rest = "rests" if len(offload) == 1 else "rest"
        return f"{' and '.join(offload)} {rest} off the device to save memory"
    if limit is not None and peak_with_graphs(peaks, held) > limit:
        return f"they would hold {in_words(held)} while images are decoded, and the budget has no room for that"
    return ""


def peak_with_graphs(peaks: Mapping[str, int], held: int) -> int:
    """The peak of `generate` in bytes, where graphs hold so much besides the phases that replay none of them."""
    return max(
        (peak + (0 if phase in REPLAYED else held) for phase, peak in peaks.items()), default=0
    )


def graphed_descent(graphs: Graphs, descent: Descent) -> Descent:
    """What guidance descends for whole groups, replayed."""

    def work(z: Tensor, classes: Tensor, *scale: Tensor) -> Tensors:
        return descent(z, scale[0] if scale else 1.0, classes)

    def descend(z: Tensor, scale: Scale, classes: Tensor) -> tuple[Tensor, Tensor]:
        if not isinstance(scale, Tensor):
            scales = () if scale == 1 else (torch.full((), scale, device=z.device),)
        else:
            scales = (scale,)
        values, grad = graphs.call("guidance", work, z, classes, *scales)
        return values, grad

    return descend
