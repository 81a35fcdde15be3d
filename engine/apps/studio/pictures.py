"""Pictures inside the page: small ones as they are, large ones reduced."""

import base64
from hashlib import blake2b

from engine.report.pictures import embedded, read_picture

PICTURES = "pictures"
"""Where the page asks for pictures by their names."""
MOST_BYTES = 24_000
"""Of a PNG that is put into the page as it is."""


def data_uri(png: bytes) -> str:
    """A PNG file as the address of a picture. Raises OSError where it is none."""
    if len(png) <= MOST_BYTES:
        return data_uri_of_png(base64.b64encode(png).decode())
    return embedded(read_picture(png).thumb)


def data_uri_of_png(base64_text: str) -> str:
    """A PNG in base64 as the address of a picture."""
    return f"data:image/png;base64,{base64_text}"


def name_of(data_uri: str) -> str:
    """A name of a picture that follows from its content, so that a browser may keep it."""
    return blake2b(data_uri.encode(), digest_size=16).hexdigest()


def content_of(data_uri: str) -> tuple[bytes, str]:
    """The bytes of a picture and their media type."""
    head, text = data_uri.split(";base64,")
    return base64.b64decode(text), head.removeprefix("data:")
