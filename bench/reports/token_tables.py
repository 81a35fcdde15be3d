"""Markdown tables of the tokens that ship, and of what they do."""

from collections.abc import Mapping
from statistics import mean

import torch

from engine.downstream.intervals import difference
from reports.current import Shipped
from reports.markdown import table


def shipped_table(tokens: Mapping[str, Shipped | None]) -> str:
    """The tokens that ship: of each classifier the classes that have one, and where it is a word."""
    rows = []
    for domain, shipped in tokens.items():
        words = {} if shipped is None else shipped.words
        moved = [label for label, word in words.items() if not word]
        unmoved = [f"{label} ({word})" for label, word in words.items() if word]
        cells = (", ".join(names) or "none" for names in (moved, unmoved))
        rows.append([domain.replace("_", " "), *cells])
    return table(["classifier of", "learned tokens", "a word, unmoved"], rows)


WITHOUT = {"CAT": "plain", "both": "DAG"}
"""Methods with tokens, and the same without."""


def _row(result: dict, method: str, domain: str) -> dict:
    """A row of the evidence. Where a classifier has no tokens, it is that of the method without, whoever drew it."""
    row = result["rows"].get(f"{method}/{domain}", {})
    if method in WITHOUT and row and not row.get("token_file"):
        return result["rows"].get(f"{WITHOUT[method]}/{domain}", {})
    return row


def tokens_table(result: dict, worst: dict[str, list[str]]) -> str:
    """The study `evidence`: accuracies on the classes that the teacher recognises worst, without and with tokens."""
    methods = ("plain", "CAT", "DAG", "both")

    def cells(method: str, domain: str) -> list[dict]:
        seeds = _row(result, method, domain).get("seeds", {})
        return [by_class[label] for by_class in seeds.values() for label in worst[domain]]

    def shown(found: list[dict]) -> str:
        if not found:
            return "not measured"
        return f"{mean(c['teacher_class'] for c in found):.2f} / {mean(c['judge_class'] for c in found):.2f}"

    def mean_of(method: str) -> str:
        each = [cells(method, domain) for domain in worst]
        return shown([cell for found in each for cell in found]) if all(each) else ""

    rows = [
        [domain.replace("_", " "), ", ".join(kinds), *(shown(cells(m, domain)) for m in methods)]
        for domain, kinds in worst.items()
    ]
    rows.append(["mean", "", *map(mean_of, methods)])
    counts = {sum(c["images"] for c in cells(m, d)) for m in methods for d in worst} - {0}
    return (
        "Teacher's / judge's accuracy on the classes that the teacher recognises worst in plain images; "
        f"{' or '.join(map(str, sorted(counts)))} images a row and column, on seeds that learning did not see.\n\n"
        + table(["classifier of", "classes", *methods], rows)
    )


def token_gains_table(result: dict) -> str:
    """The study `evidence`: what tokens add in shares of images, over all classes and classifiers.

    Intervals are of a bootstrap over the classes of all classifiers, in which a row and the one without tokens are
    paired.
    """
    shares = {
        "judge_class": "judge's class",
        "judge_domain": "judge's domain",
        "teacher_class": "classifier's class",
    }
    domains = list(dict.fromkeys(name.split("/")[1] for name in result["rows"]))

    def classes(method: str) -> dict[tuple[str, str], list[dict]]:
        """What was counted of each domain and class, by seed."""
        found: dict[tuple[str, str], list[dict]] = {}
        for domain in domains:
            for by_class in _row(result, method, domain).get("seeds", {}).values():
                for label, cell in by_class.items():
                    found.setdefault((domain, label), []).append(cell)
        return found

    rows = []
    for tokens, name in (("CAT", "plain images"), ("both", "guided images")):
        ours, theirs = classes(tokens), classes(WITHOUT[tokens])
        paired = sorted(ours.keys() & theirs.keys())
        if not paired:
            continue
        cells = []
        for share in shares:
            values = (
                torch.tensor([[mean(cell[share] for cell in of[at]) for at in paired]])
                for of in (ours, theirs)
            )
            gain = {end: 100 * value for end, value in difference(*values).items()}
            cells.append(f"{gain['mean']:+.1f} ({gain['low']:+.1f} to {gain['high']:+.1f})")
        images = sum(cell["images"] for at in paired for cell in ours[at])
        number = len({domain for domain, _ in paired})
        rows.append([name, str(number), str(images), *cells])
    if not rows:
        return "Not measured yet: `python bench/studies evidence --methods CAT both`."
    header = ["points more with tokens", "classifiers", "images", *shares.values()]
    return table(header, rows)


def worst_of(found: dict, number: int = 2) -> dict[str, list[str]]:
    """The study `worst_classes`: domain -> the classes that its classifier recognises least, in alphabetical order."""
    domains = [name.removeprefix("embedded:") for name in next(iter(found["recognised"].values()))]
    return {
        domain: sorted(
            sorted(
                found["recognised"],
                key=lambda label: found["recognised"][label][f"embedded:{domain}"],
            )[:number]
        )
        for domain in domains
    }
