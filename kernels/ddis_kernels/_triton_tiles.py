"""Block sizes of the Triton kernels, by rules on a feature map's sizes.

A rule, and not a race of candidates: the same map runs with the same tile on every device and in every process, so its
sums are added in the same order, nothing is compiled only to lose, and a whole network is served by a few tiles. The
fewer there are, the sooner its first pass begins: each tile is another compilation of the kernel.
"""

from typing import NamedTuple

VECTOR_BYTES = 16
"""What a thread loads at once, at most: 128 bits."""


class Tile(NamedTuple):
    """What one step of a program covers: `rows` times `columns` elements, by 32 * `warps` threads.

    vector: neighbours that load together, which divide the length of a row of neighbours.
    """

    rows: int
    columns: int
    warps: int
    vector: int


def measure_tile(channels: int, pixels: int, interleaved: bool, nbytes: int) -> Tile:
    """The tile of `_measure_kernel` for values of nbytes. columns: channels, 1 if planar.

    Interleaved: 128 bytes of channels, a cache line, by as many pixels as fill the threads. Planar: the longer the runs
    of neighbours, the more of them at once; planes that no vector divides are mostly small ones.
    """
    if interleaved:
        columns = 8 * VECTOR_BYTES // nbytes
        return Tile(2048 // columns, columns, 4, vector_of(channels, nbytes))
    vector = vector_of(pixels, nbytes)
    return Tile(512, 1, 4, vector) if vector == 1 else Tile(256 * vector, 1, 8, vector)


def backward_tile(width: int, nbytes: int) -> Tile:
    """The tile of `_backward_kernel` for rows of `width` neighbours of nbytes.

    Values that load one by one each take an address of their own: half as many keep the registers free.
    """
    vector = vector_of(width, nbytes)
    wide = next(columns for columns in (64, 256, 1024) if width <= 2 * columns or columns == 1024)
    return Tile((1024 if vector == 1 else 2048) // wide, wide, 4, vector)


def vector_of(neighbours: int, nbytes: int) -> int:
    """How many of a row's neighbours load at once: 128 bits of them, or four, or one."""
    return next(v for v in (VECTOR_BYTES // nbytes, 4, 1) if neighbours % v == 0)


def in_vectors(channels: int, pixels: int, interleaved: bool, vector: int) -> tuple[int, int]:
    """Both sizes as the kernels take them: that of neighbours as a number of vectors."""
    return (channels // vector, pixels) if interleaved else (channels, pixels // vector)
