"""Graphs for ONNX Runtime: the prior's networks, the classifier, and the gradient of guidance as one graph."""
