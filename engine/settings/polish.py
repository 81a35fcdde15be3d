"""Settings of polishing: moves of finished pixels."""

from dataclasses import dataclass

from engine.settings.fields import check_not_negative, setting


@dataclass(frozen=True, kw_only=True)
class Polish:
    """Moves of finished images down what guidance descends, L: x <- clamp(x - scale grad L / rms(grad L), 0, 1).

    Pixels need no denoiser and no decoder, and reach what a decoder cannot draw. But nothing keeps them natural, as the
    prior keeps latents: long ways end in noise that only this classifier sees, so judge them by another network.
    """

    steps: int = setting(0, "moves of the finished images' pixels; 0 leaves images as decoded")
    scale: float = setting(0.004, "rms of such a move, of pixels in [0, 1]")

    def __post_init__(self) -> None:
        check_not_negative(
            self, steps="0 leaves images as they are decoded", scale="0 moves nothing"
        )
