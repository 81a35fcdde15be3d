"""Text that pillow's own font can draw: no font file of the machine is used, so pictures are equal everywhere."""

import unicodedata

from PIL import ImageFont

Font = ImageFont.FreeTypeFont | ImageFont.ImageFont

DRAWABLE = "©«°±»·…"
_DASHES_AND_QUOTES = {
    0x2013: "-",
    0x2014: "-",
    0x2212: "-",
    0x2018: "'",
    0x2019: "'",
    0x201C: '"',
    0x201D: '"',
}
_PLAIN = {
    **_DASHES_AND_QUOTES,
    ord("ß"): "ss",
    ord("ø"): "o",
    ord("Ø"): "O",
    ord("ł"): "l",
    0xD7: "x",
}


def font(size: int) -> Font:
    """Pillow's own font at a size in pixels."""
    return ImageFont.load_default(size)


def legible(text: str) -> str:
    """`text` in letters that the font has: accents are dropped ('café' -> 'cafe'), other scripts become '?'."""
    letters = []
    for letter in text.translate(_PLAIN):
        plain = letter if letter in DRAWABLE else unicodedata.normalize("NFKD", letter)
        kept = "".join(c for c in plain if c in DRAWABLE or " " <= c <= "~")
        letters.append(kept or ("" if unicodedata.combining(letter) else "?"))
    return "".join(letters)


def shorten(text: str, font: Font, width: float) -> str:
    """`text`, legible, and cut with an ellipsis where it is wider than `width` pixels."""
    text = legible(text)
    if font.getlength(text) <= width:
        return text
    while text and font.getlength(f"{text}…") > width:
        text = text[:-1]
    return f"{text.rstrip()}…"
