"""Mixed views. The teacher labels the mixed image itself, and so says what lies between classes.

mixup    lambda x_i + (1 - lambda) x_j                       (arXiv 1710.09412)
cutmix   x_i with a box of x_j in it, 1 - lambda of its area   (arXiv 1905.04899)

lambda is drawn evenly from 0 to 1 for each image, as patient distillation does (arXiv 2106.05237).
"""

import torch
from torch import Tensor


def mixed(views: Tensor, way: str, rng: torch.Generator) -> Tensor:
    """Views (N, 3, H, W) mixed with each other; `way`: 'mixup', 'cutmix', or 'both', one of them for each batch."""
    if way == "both":
        way = ("mixup", "cutmix")[int(torch.randint(2, (), generator=rng))]
    others = views[torch.randperm(len(views), generator=rng).to(views.device)]
    amounts = torch.rand(len(views), 1, 1, 1, generator=rng)
    if way == "mixup":
        return torch.lerp(others, views, amounts.to(views.device))
    boxes = _boxes(1 - amounts, views.shape[-2], views.shape[-1], rng)
    return torch.where(boxes.to(views.device), others, views)


def _boxes(areas: Tensor, height: int, width: int, rng: torch.Generator) -> Tensor:
    """Boxes (N, 1, H, W) of these shares of an image, (N, 1, 1, 1), anywhere in it: True within."""
    sides = areas.sqrt()
    tops, lefts = ((1 - sides) * torch.rand(len(areas), 1, 1, 1, generator=rng) for _ in range(2))
    down, right = ((torch.arange(n) + 0.5) / n for n in (height, width))
    rows, columns = down.view(1, 1, -1, 1), right.view(1, 1, 1, -1)
    inside_rows = (tops <= rows) & (rows < tops + sides)
    return inside_rows & (lefts <= columns) & (columns < lefts + sides)
