"""Pictures inside the page: small ones as they are, large ones reduced."""

import base64

from engine.report.pictures import embedded, read_picture

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
