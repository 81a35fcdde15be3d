"""Jitter, flip and ColorShift: what they may do, and that a generator decides it."""

import torch

from engine.methods.views import color_shifted, flipped, jittered


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_jitter_moves_all_images_alike_within_its_reach() -> None:
    x = torch.zeros(2, 3, 9, 9)
    x[:, :, 4, 4] = 1
    found, source = set(), rng()
    for _ in range(200):
        moved = jittered(x, 2, source)
        assert torch.equal(moved[0], moved[1])
        found.add(tuple((moved[0, 0] == 1).nonzero()[0].tolist()))
    assert found == {(row, column) for row in range(2, 7) for column in range(2, 7)}
    assert torch.equal(jittered(x, 0, rng()), x)


def test_jitter_and_flip_are_their_generators() -> None:
    x = torch.randn(2, 3, 8, 8)
    assert torch.equal(jittered(x, 4, rng(5)), jittered(x, 4, rng(5)))
    assert any(not torch.equal(jittered(x, 4, rng(5)), jittered(x, 4, rng(n))) for n in range(3))
    flips = [torch.equal(flipped(x, source), x) for source in [rng(1)] for _ in range(100)]
    assert 30 < sum(flips) < 70
    torch.manual_seed(0)
    before = torch.get_rng_state()
    color_shifted(x, 2, 1.0, 1.0, rng())
    assert torch.equal(torch.get_rng_state(), before)


def test_color_shift_is_affine_by_copy_image_and_channel_within_its_bounds() -> None:
    x = torch.randn(2, 3, 8, 8)
    copies = color_shifted(x, 3, 0.5, 1.0, rng())
    assert copies.shape == (6, 3, 8, 8)
    spread = copies.std((2, 3)) / x.std((2, 3)).repeat(3, 1)
    shift = copies.mean((2, 3)) - spread * x.mean((2, 3)).repeat(3, 1)
    rebuilt = spread[..., None, None] * x.repeat(3, 1, 1, 1) + shift[..., None, None]
    torch.testing.assert_close(copies, rebuilt, atol=1e-4, rtol=1e-4)
    assert ((spread > 1 / 2.72) & (spread < 2.72)).all()
    assert (shift.abs() < 0.5).all()
    assert len(spread.flatten().unique()) == len(shift.flatten().unique()) == 18
    plain = color_shifted(x, 3, 0.0, 0.0, rng())
    assert torch.equal(plain, x.repeat(3, 1, 1, 1))
