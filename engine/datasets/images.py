"""Pixels of a sample: (3, H, W) floats in [0, 1] -> 8 bit, as a picture or as PNG bytes."""

import io
from typing import TYPE_CHECKING

from PIL import Image

from engine.errors import OutputError

if TYPE_CHECKING:
    from torch import Tensor


def to_picture(image: "Tensor") -> Image.Image:
    """image: (3, H, W) in [0, 1], any device -> RGB picture, rounded to the nearest of 256 levels.

    Raises OutputError for another shape, or for values that are no numbers.
    """
    if image.ndim != 3 or image.shape[0] != 3 or not bool(image.isfinite().all()):
        raise OutputError(
            f"an image has shape {tuple(image.shape)} or values that are not finite, expected (3, H, W) in [0, 1]: "
            "look for the step that made it, for instance a guidance scale that is too large."
        )
    pixels = image.detach().float().cpu().clamp(0, 1).mul(255).round().byte()
    return Image.fromarray(pixels.permute(1, 2, 0).contiguous().numpy())


def png_bytes(picture: Image.Image) -> bytes:
    """The picture as a PNG without metadata: equal pixels give equal bytes."""
    buffer = io.BytesIO()
    picture.save(buffer, format="PNG", compress_level=6)
    return buffer.getvalue()
