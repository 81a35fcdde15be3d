"""Which image of a data set: what is known of it without any of the libraries that make it."""

from dataclasses import dataclass


@dataclass(frozen=True, order=True)
class ImageKey:
    """Which image of a data set: the class's number and the image's number within the class."""

    class_index: int
    index: int
