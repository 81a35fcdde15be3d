"""Block sizes of the Triton kernels: the candidates for each kind of feature map, and which of them is fastest.

Candidates are timed when a kind is first met on a CUDA device, and the answer is kept for the process. In the
interpreter, while torch compiles or a CUDA graph is captured, and under torch's deterministic algorithms (another tile
adds in another order), the first candidate serves untimed.
"""

from collections.abc import Callable, Hashable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from ddis_kernels._triton import INTERPRETED

Launch = Callable[["Tile"], object]


ROUNDS, LAUNCHES = 4, 5
"""How often `device_ms` times, and how many launches each time."""

MARGIN = 0.97
"""Another candidate must take less than this share of the default's time: closer ones are told apart by noise alone."""


class Tile(NamedTuple):
    """What one step of a program covers: `rows` times `columns` elements, by 32 * `warps` threads."""

    rows: int
    columns: int
    warps: int


def power_of_2(n: int) -> int:
    """The smallest power of two that is at least n."""
    return 1 << (n - 1).bit_length()


def measure_tiles(rows: int, channels: int, interleaved: bool, nbytes: int) -> list[Tile]:
    """Candidates of `_measure_kernel` for `rows` values of nbytes per channel, the default first.

    All load 128 bits a thread where channels or pixels are neighbours. columns: channels, 1 if planar.
    """
    vector, rows = 16 // nbytes, power_of_2(rows)
    if interleaved:
        tiles = []
        for vectors, size, warps in ((16, 4096, 4), (16, 2048, 4), (8, 2048, 4), (16, 4096, 8)):
            columns = min(power_of_2(channels), vectors * vector)
            tiles.append(Tile(max(min(rows, size // columns), 1), columns, warps))
    else:
        sizes = ((256, 4 if rows <= 128 * vector else 8), (128, 4), (512, 8), (512, 16))
        tiles = [Tile(min(rows, threads * vector), 1, warps) for threads, warps in sizes]
    return _worthwhile(tiles, vector)


def backward_tiles(width: int, nbytes: int) -> list[Tile]:
    """Candidates of `_backward_kernel` for rows of `width` neighbours of nbytes, the default first."""
    wide = power_of_2(width)
    tiles = [
        Tile(max(1, size // min(wide, widest)), min(wide, widest), warps)
        for widest, size, warps in (
            (1024, 2048, 4),
            (1024, 1024, 4),
            (1024, 4096, 8),
            (2048, 2048, 8),
        )
    ]
    return _worthwhile(tiles, 16 // nbytes)


def _worthwhile(tiles: Sequence[Tile], vector: int) -> list[Tile]:
    """The first, and what differs from it and gives each thread a vector: small maps clip the others."""
    first, *others = dict.fromkeys(tiles)
    return [
        first,
        *(tile for tile in others if tile.rows * tile.columns >= 32 * tile.warps * vector),
    ]


def kind_of(kernel: str, x: Tensor, interleaved: bool, *sizes: int) -> Hashable:
    """What shares one choice: kernel, device, dtype, memory order, and sizes up to the next power of two."""
    return (kernel, x.device, x.dtype, interleaved, *map(power_of_2, sizes))


def may_time(x: Tensor) -> bool:
    """May candidates be run and timed now, on the device of x?"""
    return (
        x.is_cuda
        and not INTERPRETED
        and not torch.compiler.is_compiling()
        and not torch.cuda.is_current_stream_capturing()
    )


def device_ms(run: Callable[[], object]) -> float:
    """Milliseconds of a launch on the current CUDA device: the best of a few rounds of a few launches."""
    run()  # compiles
    times = []
    for _ in range(ROUNDS):
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        for _ in range(LAUNCHES):
            run()
        end.record()
        end.synchronize()
        times.append(begin.elapsed_time(end) / LAUNCHES)
    return min(times)


class Chooser:
    """The fastest tile of each kind that was met. Launching a kernel twice must leave what launching it once leaves."""

    def __init__(
        self,
        milliseconds: Callable[[Callable[[], object]], float] = device_ms,
        may_time: Callable[[Tensor], bool] = may_time,
    ) -> None:
        self.milliseconds, self.may_time = milliseconds, may_time
        self.chosen: dict[Hashable, Tile] = {}

    def __call__(self, kind: Hashable, x: Tensor, tiles: Sequence[Tile], launch: Launch) -> Tile:
        """The tile to launch with: of `kind`, which a kernel's candidates `tiles` must follow from."""
        if len(tiles) == 1 or torch.are_deterministic_algorithms_enabled():
            return tiles[0]
        if kind in self.chosen:
            return self.chosen[kind]
        if not self.may_time(x):
            return tiles[0]
        times = [self.milliseconds(lambda tile=tile: launch(tile)) for tile in tiles]  # type: ignore[misc]
        fastest = min(times)
        best = tiles[times.index(fastest)] if fastest < MARGIN * times[0] else tiles[0]
        self.chosen[kind] = best
        return best


choose_tile = Chooser()
