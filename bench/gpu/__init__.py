"""Everything worth measuring on a CUDA device, one module a part; `python bench/gpu --help`."""
