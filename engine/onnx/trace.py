"""From a function of tensors, gradients inside or not, to a module of plain operators that ONNX has."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.proxy_tensor import make_fx
from torch.fx.experimental.symbolic_shapes import DimDynamic, ShapeEnv, StatelessSymbolicContext
from torch.nn.attention import SDPBackend, sdpa_kernel


def traced(
    function: Callable[..., Any],
    examples: Sequence[Tensor],
    table: Mapping[Any, Callable[..., Any]],
) -> nn.Module:
    """The operators that `function` runs on tensors like the examples, whose first axis is the batch, of any size.

    table: the decompositions to apply. Python's control flow is taken as it went; weights become constants.
    """
    mode = FakeTensorMode(shape_env=ShapeEnv(), allow_non_fake_inputs=True)

    def any_batch(example: Tensor) -> Tensor:
        sizes = [DimDynamic.DYNAMIC] + [DimDynamic.STATIC] * (example.dim() - 1)
        context: Any = StatelessSymbolicContext(
            dynamic_sizes=sizes, constraint_sizes=[None] * example.dim()
        )
        return mode.from_tensor(example, symbolic_context=context)

    tracer = make_fx(
        function,
        decomposition_table=dict(table),
        tracing_mode="symbolic",
        _allow_non_fake_inputs=True,
    )
    with sdpa_kernel(SDPBackend.MATH):
        return tracer(*map(any_batch, examples)).eval()
