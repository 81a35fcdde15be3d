"""The names of ImageNet's 1,000 classes, in the order of its networks' outputs, by their WordNet ids.

Ids and names are WordNet's (Princeton University), the first of each synset; two pairs that are called alike are kept
apart.
"""

from functools import cache
from pathlib import Path

WORD = "imagenet"
"""In place of labels: ImageNet's."""


@cache
def imagenet_names() -> dict[str, str]:
    """{'n01440764': 'tench', ...}."""
    lines = Path(__file__).with_suffix(".txt").read_text(encoding="utf-8").splitlines()
    return {line[:9]: line[10:] for line in lines}
