"""Settings of polishing: moves of finished pixels."""

from dataclasses import dataclass

from engine.settings.fields import check_not_negative, setting


@dataclass(frozen=True, kw_only=True)
class Polish:
    """Moves of finished images down guidance's loss L: x <- clamp(x - scale grad L / rms(grad L), 0, 1).

    These moves need no denoiser and no decoder, and can reach images that a decoder cannot draw. But nothing keeps
    pixels natural as the prior does for latents: many moves end in noise that only this classifier responds to, so
    judge the images with another network.
    """

    steps: int = setting(
        0, "moves of the finished images' pixels; 0: leave images as they are decoded"
    )
    scale: float = setting(0.004, "rms of each such move, for pixels in [0, 1]")

    def __post_init__(self) -> None:
        check_not_negative(
            self, steps="0 leaves images as they are decoded", scale="0 moves nothing"
        )
