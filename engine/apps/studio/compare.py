"""Two folders as HTML: figures of each, what differs in their settings, and images of equal keys side by side."""

from collections.abc import Sequence
from html import escape
from math import isfinite
from statistics import fmean

from engine.apps.studio.printed import table
from engine.report.overview import DatasetOverview, ImageOverview, settings_rows

PAIRS = 48
"""Pairs of images that are shown, as many of each class."""
DASH = "-"


def compared(one: DatasetOverview, other: DatasetOverview) -> str:
    """Both folders side by side."""
    names = _shortest(one.folder, other.folder)
    found = pairs(one, other)
    parts = [table(["", *names], figures(one, other)), _by_class(one, other, names)]
    parts.append(_differing(one, other, names))
    if not found:
        parts.append(
            '<p class="note">No image of one folder has the class and number of one of the other.</p>'
        )
    else:
        same = all(first.seed == second.seed for first, second in found)
        parts.append(f'<p class="note">{"Equal seeds" if same else "The seeds differ"}.</p>')
        shown = [pair for pair in found if all(image.picture for image in pair)][:PAIRS]
        cells = "".join(_pair(*pair) for pair in shown)
        parts.append(f'<div class="pairs">{cells}</div>')
    return "".join(parts)


def pairs(
    one: DatasetOverview, other: DatasetOverview
) -> list[tuple[ImageOverview, ImageOverview]]:
    """Images that have the same class and number in both."""
    others = {image.path: image for image in other.images}
    return [(image, others[image.path]) for image in one.images if image.path in others]


def figures(*folders: DatasetOverview) -> list[list[str]]:
    """Lines of a table: what is said of each folder as a whole."""
    return [
        ["images", *(f"{len(one.images):,}" for one in folders)],
        ["recognised by the classifier", *(f"{one.recognised:.0%}" for one in folders)],
        ["mean confidence", *(f"{fmean(i.confidence for i in one.images):.0%}" for one in folders)],
        ["mean L_BN of an image", *(_mean_l_bn(one) for one in folders)],
        ["equal to an earlier image", *(str(one.duplicates) for one in folders)],
        ["pairs that look alike", *(str(one.near_duplicates) for one in folders)],
    ]


def _mean_l_bn(overview: DatasetOverview) -> str:
    known = [image.l_bn for image in overview.images if isfinite(image.l_bn)]
    return f"{fmean(known):.1f}" if known else DASH


def _by_class(one: DatasetOverview, other: DatasetOverview, names: Sequence[str]) -> str:
    shares = [
        {c.label: f"{c.recognised:.0%}" for c in overview.classes} for overview in (one, other)
    ]
    labels = dict.fromkeys([*shares[0], *shares[1]])
    rows = [[label, *(share.get(label, DASH) for share in shares)] for label in labels]
    return (
        f"<details><summary>Recognised by class</summary>{table(['class', *names], rows)}</details>"
    )


def _differing(one: DatasetOverview, other: DatasetOverview, names: Sequence[str]) -> str:
    """What the records of both say differently."""
    known = [
        dict(settings_rows(overview.record.facts)) if overview.record else {}
        for overview in (one, other)
    ]
    differing = [
        [name, *(said.get(name, DASH) for said in known)]
        for name in dict.fromkeys([*known[0], *known[1]])
        if known[0].get(name) != known[1].get(name)
    ]
    if not differing:
        return '<p class="note">Their settings are the same.</p>'
    return f"<details><summary>Settings that differ</summary>{table(['', *names], differing)}</details>"


def _pair(first: ImageOverview, second: ImageOverview) -> str:
    tiles = "".join(_tile(image) for image in (first, second))
    return f'<div class="pair"><p>{escape(first.label)} · {escape(first.path.split("/")[-1])}</p>{tiles}</div>'


def _tile(image: ImageOverview) -> str:
    kind = "" if image.recognised else ' class="wrong"'
    distance = f"L_BN {image.l_bn:.0f}" if isfinite(image.l_bn) else ""
    picture = (
        f'<img src="{image.picture}" alt="{escape(image.label)}">' if image.picture else "<i></i>"
    )
    return (
        f'<div class="tile made">{picture}<span{kind}>{image.confidence:.0%}</span>'
        f"<span>{distance}</span></div>"
    )


def _shortest(one: str, other: str) -> tuple[str, str]:
    """The ends of two paths that tell them apart."""
    first, second = one.rstrip("/").split("/"), other.rstrip("/").split("/")
    for length in range(1, max(len(first), len(second)) + 1):
        ends = "/".join(first[-length:]), "/".join(second[-length:])
        if ends[0] != ends[1]:
            return ends
    return one, other
