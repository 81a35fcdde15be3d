"""Values that settings of networks may take."""

DTYPES = ("float32", "float16", "bfloat16", "auto")
"""Names of the dtypes of networks.

auto is the device's fastest: float16 on a GPU; on a CPU bfloat16 where it has instructions for that, else float32.
"""
AUTO_ATTENTION = "auto"
"""The attention backend that the plan chooses: xformers where it is installed and has a kernel, else SDPA."""
