"""Which tile a Triton kernel runs with: every candidate is right, the fastest is taken, no device is asked early."""

import os
import subprocess
import sys

import pytest
import torch
from ddis_kernels import _triton, bn_act_moments, bn_act_moments_reference, use_backend
from ddis_kernels import _triton_tiles as tiles
from ddis_kernels._triton_tiles import Chooser, Tile, backward_tiles, kind_of, measure_tiles

CANDIDATES = [Tile(4, 1, 4), Tile(2, 1, 4), Tile(8, 1, 8)]


@pytest.fixture(autouse=True)
def _any_order_of_sums():
    """Deterministic algorithms, which every test asks for, take the default; the next test asks again."""
    torch.use_deterministic_algorithms(False)


class Clock:
    """Runs what it times, and answers with given milliseconds, one after the other."""

    def __init__(self, *answers: float) -> None:
        self.answers = list(answers)

    def __call__(self, run) -> float:
        run()
        return self.answers.pop(0)


def choose(answers, kind="kind", candidates=CANDIDATES):
    """(chosen tile, tiles launched) of a chooser whose clock gives `answers`."""
    launched = []
    chooser = Chooser(Clock(*answers), lambda x: True)
    return chooser(kind, torch.ones(1), candidates, launched.append), launched


def test_the_fastest_is_taken():
    assert choose([3, 2, 1]) == (CANDIDATES[2], CANDIDATES)
    assert choose([3, 1, 2])[0] == CANDIDATES[1]


def test_the_default_stays_unless_clearly_beaten():
    assert choose([1.0, 0.98, 0.99])[0] == CANDIDATES[0]


def test_each_kind_is_timed_once():
    chooser, launched = Chooser(Clock(3, 2, 1, 1, 2, 3), lambda x: True), []
    found = [
        chooser(kind, torch.ones(1), CANDIDATES, launched.append) for kind in ("a", "b", "a", "b")
    ]
    assert found == [CANDIDATES[2], CANDIDATES[0], CANDIDATES[2], CANDIDATES[0]]
    assert launched == CANDIDATES * 2


def test_a_single_candidate_is_not_timed():
    assert choose([], candidates=CANDIDATES[:1]) == (CANDIDATES[0], [])


def test_where_nothing_may_be_timed_the_default_serves_and_nothing_is_kept():
    allowed, launched = [False], []
    chooser = Chooser(Clock(3, 2, 1), lambda x: allowed[0])
    assert chooser("kind", torch.ones(1), CANDIDATES, launched.append) == CANDIDATES[0]
    assert launched == []
    allowed[0] = True
    assert chooser("kind", torch.ones(1), CANDIDATES, launched.append) == CANDIDATES[2]


def test_deterministic_algorithms_get_the_default_whatever_was_timed():
    chooser = Chooser(Clock(3, 2, 1), lambda x: True)
    assert chooser("kind", torch.ones(1), CANDIDATES, lambda tile: None) == CANDIDATES[2]
    torch.use_deterministic_algorithms(True)
    assert chooser("kind", torch.ones(1), CANDIDATES, lambda tile: None) == CANDIDATES[0]


def test_tensors_on_the_cpu_are_never_timed(feature_map):
    assert not tiles.may_time(torch.ones(1))
    if _triton.INTERPRETED:
        with use_backend("triton"):
            bn_act_moments(feature_map((4, 8, 16, 16)), torch.ones(8), torch.zeros(8))
        assert tiles.choose_tile.chosen == {}


@pytest.mark.parametrize(
    ("shape", "dtype", "layout"),
    [
        ((2, 3, 24, 25), torch.float32, "contiguous"),
        ((2, 65, 8, 17), torch.float16, "channels_last"),
    ],
)
def test_every_candidate_is_right(monkeypatch, shape, dtype, layout, feature_map):
    if not _triton.INTERPRETED:
        pytest.skip("needs TRITON_INTERPRET=1")
    channels, pixels = shape[1], shape[2] * shape[3]
    x = feature_map(shape, dtype, layout, offset=2)
    k, b = torch.linspace(-1, 1, channels), torch.full((channels,), 40.0)  # off ReLU's kink
    weights = torch.randn(shape).to(dtype), torch.randn(channels), torch.randn(channels)

    def outputs(op, x):
        leaf = x.detach().requires_grad_()
        out = op(leaf, k, b)
        same = [w.to(o.dtype) for w, o in zip(weights, out, strict=True)]
        return [*(o.detach() for o in out), torch.autograd.grad(list(out), leaf, same)[0]]

    interleaved = layout == "channels_last"
    seen = {
        "forward": measure_tiles(shape[0] * pixels, channels, interleaved, x.element_size()),
        "backward": backward_tiles(channels if interleaved else pixels, x.element_size()),
    }
    assert min(map(len, seen.values())) > 1
    exact, error = outputs(bn_act_moments_reference, x.double()), 4 * torch.finfo(dtype).eps
    for number in range(max(map(len, seen.values()))):
        monkeypatch.setattr(
            tiles,
            "choose_tile",
            lambda kind, x, found, launch, n=number: found[min(n, len(found) - 1)],
        )
        with use_backend("triton"):
            got = outputs(bn_act_moments, x)
        for g, e in zip(got, exact, strict=True):
            assert (g.double() - e).abs().max() <= error * e.abs().max().clamp(min=1)


@pytest.mark.parametrize("nbytes", [2, 4])
@pytest.mark.parametrize("interleaved", [False, True])
def test_candidates_follow_from_the_kind(nbytes, interleaved):
    """Maps of one kind share a choice, so they must have the same candidates."""
    x = torch.ones(1, dtype={2: torch.float16, 4: torch.float32}[nbytes])
    found = {}
    for rows in (1, 7, 500, 512, 513, 3136, 4096, 100_000):
        for channels in (1, 3, 33, 64, 65, 2048):
            kind = kind_of("forward", x, interleaved, rows, channels)
            candidates = measure_tiles(rows, channels, interleaved, nbytes)
            assert found.setdefault(kind, candidates) == candidates
            assert backward_tiles(channels, nbytes)[0] == backward_tiles(channels, nbytes * 2)[0]


def test_importing_asks_no_device():
    code = (
        "import torch\n"
        "def refuse(*_, **__): raise SystemExit('a device was asked')\n"
        "for name in ('_lazy_init', 'is_available', 'device_count', 'current_device', 'get_device_capability'):\n"
        "    setattr(torch.cuda, name, refuse)\n"
        "import ddis_kernels\n"
        "from triton.runtime import driver\n"
        "assert driver._active is None, 'a driver was started'\n"
        "print('imported')\n"
    )
    environment = {**os.environ, "TRITON_INTERPRET": "0"}
    pytest.importorskip("triton")
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False
    )
    assert done.stdout.split() == ["imported"], done.stderr
