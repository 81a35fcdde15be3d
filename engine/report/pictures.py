"""Pictures inside a page: small ones as they are, large ones reduced; and what makes two of them the same."""

import base64
import io
from collections.abc import Iterable, Iterator, Sequence
from hashlib import blake2b
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

THUMB_PX = 160
"""The longest side of a picture in the page."""
HASH_PX = 8
NEAR = 3
"""Pictures whose hashes differ in so many of 64 bits at most look alike."""
AT_ONCE = 512
"""Pictures that are compared with all others together, which bounds memory."""


class Seen(NamedTuple):
    """What is kept of a picture. digest: of its pixels. look: its difference hash, 64 bits."""

    thumb: Image.Image
    digest: bytes
    look: int


def seen(content: bytes) -> Seen:
    """A picture from its file's bytes."""
    with Image.open(io.BytesIO(content)) as opened:
        picture = opened.convert("RGB")
    digest = blake2b(picture.tobytes(), digest_size=16).digest()
    grey = picture.convert("L").resize((HASH_PX + 1, HASH_PX), Image.Resampling.LANCZOS)
    levels = np.asarray(grey, dtype=np.int16)
    bits = np.packbits((levels[:, 1:] > levels[:, :-1]).ravel())
    picture.thumbnail((THUMB_PX, THUMB_PX), Image.Resampling.LANCZOS)
    return Seen(picture, digest, int.from_bytes(bits.tobytes()))


def embedded(picture: Image.Image) -> str:
    """The picture as a data URI, as WebP: a few kilobytes."""
    buffer = io.BytesIO()
    picture.save(buffer, format="WEBP", quality=85, method=4)
    return f"data:image/webp;base64,{base64.b64encode(buffer.getvalue()).decode()}"


def same(digests: Sequence[bytes]) -> list[list[int]]:
    """Groups of places whose pictures have equal pixels."""
    places: dict[bytes, list[int]] = {}
    for place, digest in enumerate(digests):
        places.setdefault(digest, []).append(place)
    return [group for group in places.values() if len(group) > 1]


def alike(looks: Sequence[int], classes: Sequence[int]) -> list[tuple[int, int]]:
    """Pairs of places, the first smaller, of one class whose pictures look alike."""
    found: list[tuple[int, int]] = []
    hashes = np.array(looks, dtype=np.uint64)
    of_class = np.array(classes)
    for number in np.unique(of_class):
        (places,) = np.nonzero(of_class == number)
        found += list(_pairs(places, hashes[places]))
    return sorted(found)


def _pairs(places: NDArray[np.intp], hashes: NDArray[np.uint64]) -> Iterator[tuple[int, int]]:
    for start in range(0, len(hashes), AT_ONCE):
        differing = np.bitwise_count(hashes[start : start + AT_ONCE, None] ^ hashes[None])
        first, second = np.nonzero(differing <= NEAR)
        yield from _ordered(places, first + start, second)


def _ordered(
    places: NDArray[np.intp], first: Iterable[int], second: Iterable[int]
) -> Iterator[tuple[int, int]]:
    for one, other in zip(first, second, strict=True):
        if one < other:
            yield int(places[one]), int(places[other])
