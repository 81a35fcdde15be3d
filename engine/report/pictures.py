"""Pictures inside a page: small ones as they are, large ones reduced; and what makes two of them the same."""

import base64
import io
import itertools
from collections.abc import Sequence
from hashlib import blake2b
from typing import NamedTuple

import numpy as np
from PIL import Image

THUMB_PX = 160
"""The longest side of a picture in the page."""
FORMS = ((THUMB_PX, 85), (THUMB_PX, 60), (112, 75), (80, 75), (80, 40), (80, 10))
"""Longest side and quality of a picture in the page, the first that has room."""
HASH_PX = 8
NEAR = 3
"""Pictures whose hashes differ in so many of 64 bits at most look alike."""
AT_ONCE = 512
"""Pictures that are compared with all others together, which bounds memory."""


class Picture(NamedTuple):
    """What is kept of a picture. digest: of its pixels. difference_hash: 64 bits that resized twins share."""

    thumb: Image.Image
    digest: bytes
    difference_hash: int


def read_picture(content: bytes) -> Picture:
    """A picture from its file's bytes. Raises OSError where they are none."""
    with Image.open(io.BytesIO(content)) as opened:
        picture = opened.convert("RGB")
    digest = blake2b(picture.tobytes(), digest_size=16).digest()
    grey = picture.convert("L").resize((HASH_PX + 1, HASH_PX), Image.Resampling.LANCZOS)
    levels = np.asarray(grey, dtype=np.int16)
    bits = np.packbits((levels[:, 1:] > levels[:, :-1]).ravel())
    picture.thumbnail((THUMB_PX, THUMB_PX), Image.Resampling.LANCZOS)
    return Picture(picture, digest, int.from_bytes(bits.tobytes()))


def embedded(picture: Image.Image, most_bytes: int | None = None) -> str:
    """The picture as a data URI, as WebP: a few kilobytes.

    most_bytes: of the URI. A picture that takes more comes in the first of FORMS that fits, in the end in the last.
    """
    for side, quality in FORMS:
        reduced = picture.copy()
        reduced.thumbnail((side, side), Image.Resampling.LANCZOS)
        buffer = io.BytesIO()
        reduced.save(buffer, format="WEBP", quality=quality, method=4)
        uri = f"data:image/webp;base64,{base64.b64encode(buffer.getvalue()).decode()}"
        if most_bytes is None or len(uri) <= most_bytes:
            break
    return uri


def first_of_each(digests: Sequence[bytes]) -> list[int]:
    """Places of the pictures that no earlier one equals pixel for pixel, ascending."""
    places: dict[bytes, int] = {}
    for place, digest in enumerate(digests):
        places.setdefault(digest, place)
    return sorted(places.values())


def near_duplicates(
    hashes: Sequence[int], classes: Sequence[int], keep: int
) -> tuple[int, list[tuple[int, int]]]:
    """How many pairs of pictures of one class look alike, and the places of the first `keep` of them."""
    number, kept = 0, list[tuple[int, int]]()
    bits, of_class = np.array(hashes, dtype=np.uint64), np.array(classes)
    for one in np.unique(of_class):
        (places,) = np.nonzero(of_class == one)
        for start in range(0, len(places), AT_ONCE):
            rows = bits[places[start : start + AT_ONCE]]
            near = np.bitwise_count(rows[:, None] ^ bits[places][None]) <= NEAR
            near &= np.arange(len(places))[None] > np.arange(start, start + len(rows))[:, None]
            number += int(near.sum())
            for first, second in itertools.islice(np.argwhere(near), max(0, keep - len(kept))):
                kept.append((int(places[start + first]), int(places[second])))
    return number, kept
