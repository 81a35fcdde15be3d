"""Places to measure in a converted ONNX graph, which has no layers of its own.

They stand in front of its normalisations, and behind its convolutions and matrices.
"""

from torch import fx

from engine.classifiers.statistics.layers import Place

NORMALISATIONS = {
    "LayerNormalization": -1,
    "RMSNormalization": -1,
    "SimplifiedLayerNormalization": -1,
    "GroupNormalization": 1,
    "InstanceNormalization": 1,
}
"""Operators that normalise their first input, and the axis of its channels."""
PRODUCTS = {"Conv": 1, "ConvTranspose": 1, "Gemm": -1, "MatMul": -1}
"""Operators that multiply by weights, and the axis of their output's channels."""


def add_places(module: fx.GraphModule) -> None:
    """Add the places to a graph, each named by its operator and number: 'conv_0', 'layernormalization_3'."""
    counts: dict[str, int] = {}
    for node in list(module.graph.nodes):
        kind = node.meta.get("onnx_op_type", "")
        if node.op != "call_function" or not node.args or not isinstance(node.args[0], fx.Node):
            continue
        if kind in NORMALISATIONS:
            place = Place("norm", NORMALISATIONS[kind])
        elif kind in PRODUCTS and _has_weights(node):
            place = Place("product", PRODUCTS[kind])
        else:
            continue
        name = f"{kind.lower()}_{counts.get(kind, 0)}"
        counts[kind] = counts.get(kind, 0) + 1
        module.add_module(name, place)
        if place.kind == "norm":
            with module.graph.inserting_before(node):
                node.replace_input_with(
                    node.args[0], module.graph.call_module(name, (node.args[0],))
                )
        else:
            with module.graph.inserting_after(node):
                seen = module.graph.call_module(name, (node,))
            node.replace_all_uses_with(seen, lambda user, seen=seen: user is not seen)


def _has_weights(node: fx.Node) -> bool:
    """Whether a product is by a constant: attention multiplies what it has computed."""
    return any(isinstance(one, fx.Node) and one.op == "get_attr" for one in node.args[:2])
