"""Values that settings of networks may take."""

DTYPES = ("float32", "float16", "bfloat16", "auto")
"""Names of the dtypes of networks; auto is float16 on a GPU and float32 on the CPU."""
AUTO_ATTENTION = "auto"
"""The attention backend that the plan chooses: xformers where it is installed and has a kernel, else SDPA."""
