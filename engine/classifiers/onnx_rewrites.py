"""What real exporters leave in ONNX files that a batch of any size cannot pass, taken out before conversion."""

from typing import Any

RESHAPE = "Reshape"
RANDOM = (
    "RandomNormal",
    "RandomUniform",
    "RandomNormalLike",
    "RandomUniformLike",
    "Bernoulli",
    "Multinomial",
)
"""Operators that give something else each time, from the same constants."""


def constants_of(graph: Any, given: set[str]) -> set[str]:
    """The names of all values that do not depend on the input: those given, and what is computed from them alone.

    Exporters let equal tensors share one behind an Identity, write weights as ConstantOfShape, or change their shape.
    """
    constant = set(given)
    for node in graph.node:  # in an order in which they can run
        inner = any(one.type in (one.GRAPH, one.GRAPHS) for one in node.attribute)
        if node.op_type in RANDOM or inner:
            continue
        if constant.issuperset(name for name in node.input if name):
            constant |= set(node.output)
    return constant


def free_batch(onnx: Any, model: Any, constant: set[str], image: Any) -> bool:
    """Let a file that was exported for a fixed number of images take any; tells whether it was such a file.

    The first axis of the input loses its size, and so do those of the shapes that values are given which depend on the
    input: 0 means the size that is there.
    """
    first = image.type.tensor_type.shape.dim[0]
    batch = first.dim_value
    if not batch:
        return False
    first.dim_param = "batch"
    values = {tensor.name: tensor for tensor in model.graph.initializer}
    values |= {
        node.output[0]: one.t
        for node in model.graph.node
        if node.op_type == "Constant"
        for one in node.attribute
        if one.name == "value"
    }
    for number, node in enumerate(model.graph.node):
        if node.op_type != RESHAPE or len(node.input) < 2 or node.input[0] in constant:
            continue
        tensor = values.get(node.input[1])
        if tensor is None:
            continue
        shape = onnx.numpy_helper.to_array(tensor).copy()
        if shape.ndim == 1 and len(shape) > 1 and shape[0] == batch:
            shape[0] = 0
            name = f"{node.input[1]}_of_any_batch_{number}"
            model.graph.initializer.append(onnx.numpy_helper.from_array(shape, name))
            node.input[1] = name
    for output in model.graph.output:
        if output.type.tensor_type.shape.dim:
            output.type.tensor_type.shape.dim[0].dim_param = "batch"
    del model.graph.value_info[:]  # sizes of what is in between, with the old batch
    return True
