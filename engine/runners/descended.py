"""What a run descended, step by step: the mean over its images and how they are spread."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

MOST_POINTS = 100
"""Points of a curve that are kept at most: an inversion has thousands of iterations."""


class Descended:
    """Collects `Sample.curve` of images: running sums, whatever their number.

    Images of another number of steps than the first, and values that are not finite, are left out.
    """

    def __init__(self) -> None:
        self.images = 0
        self._counts: NDArray[np.float64] = np.zeros(0)
        self._means: NDArray[np.float64] = np.zeros(0)
        self._squares: NDArray[np.float64] = np.zeros(0)

    def note(self, curve: Sequence[float]) -> None:
        """Add an image's values, one for each guided step or iteration."""
        values = np.asarray(curve, dtype=np.float64)
        if not self.images and len(values):
            self._counts, self._means, self._squares = np.zeros((3, len(values)))
        if not len(values) or len(values) != len(self._counts):
            return
        self.images += 1
        finite = np.isfinite(values)
        self._counts += finite
        gaps = np.where(finite, values - self._means, 0.0)
        self._means += gaps / np.maximum(self._counts, 1)
        self._squares += gaps * np.where(finite, values - self._means, 0.0)

    def to_json(self) -> dict[str, Any] | None:
        """JSON values: the steps from 1, and at each the mean and the standard deviation over images; None for none."""
        if not self.images:
            return None
        number = len(self._counts)
        places = np.unique(np.linspace(0, number - 1, min(number, MOST_POINTS)).round().astype(int))
        spread = np.sqrt(self._squares / np.maximum(self._counts - 1, 1))
        kept = [int(place) for place in places if self._counts[place]]
        return {
            "images": self.images,
            "steps": [place + 1 for place in kept],
            "mean": [float(f"{self._means[place]:.6g}") for place in kept],
            "spread": [float(f"{spread[place]:.6g}") for place in kept],
        }
