"""Terms of the baselines' losses besides cross-entropy and L_BN. Pure; images of any size and range; scalars.

Norms are not squared and are of each image, averaged over the batch, so a weight does not depend on the batch's size.
"""

import math

import torch
from torch import Tensor
from torch.linalg import vector_norm
from torch.nn.functional import kl_div


def total_variation(x: Tensor) -> Tensor:
    """R_TV: sum over four directions (right, down, both diagonals) of |x - shifted x|_2; x: (N, 3, H, W)."""
    differences = (
        x[..., :, 1:] - x[..., :, :-1],
        x[..., 1:, :] - x[..., :-1, :],
        x[..., 1:, 1:] - x[..., :-1, :-1],
        x[..., 1:, :-1] - x[..., :-1, 1:],
    )
    return torch.stack([vector_norm(step.flatten(1), dim=1).mean() for step in differences]).sum()


def image_norm(x: Tensor) -> Tensor:
    """R_l2 = |x|_2; x: (N, 3, H, W)."""
    return vector_norm(x.flatten(1), dim=1).mean()


def competition(teacher: Tensor, student: Tensor) -> Tensor:
    """R_compete = 1 - JS(p_teacher, p_student), from logits (N, K) (arXiv 1912.08795, eq. 8).

    JS(p, q) = (KL(p | m) + KL(q | m)) / 2 with m = (p + q) / 2, in nats: from 0 to log 2. It is small where the student
    does not yet agree with the teacher.
    """
    p, q = teacher.log_softmax(1), student.log_softmax(1)
    middle = torch.logaddexp(p, q) - math.log(2)
    to_p, to_q = (kl_div(middle, side, reduction="batchmean", log_target=True) for side in (p, q))
    return 1 - (to_p + to_q) / 2
