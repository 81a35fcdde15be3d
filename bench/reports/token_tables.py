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


def tokens_table(result: dict, worst: dict[str, list[str]]) -> str:
    """The study `evidence`: accuracies on the classes that the teacher recognises worst, without and with tokens."""
    methods = ("plain", "CAT", "DAG", "both")

    def cells(method: str, domain: str) -> list[dict]:
        seeds = result["rows"].get(f"{method}/{domain}", {}).get("seeds", {})
        return [by_class[label] for by_class in seeds.values() for label in worst[domain]]

    def shown(found: list[dict]) -> str:
        if not found:
            return "not measured"
        return f"{mean(c['teacher_class'] for c in found):.2f} / {mean(c['judge_class'] for c in found):.2f}"

    rows = [
        [domain.replace("_", " "), ", ".join(kinds), *(shown(cells(m, domain)) for m in methods)]
        for domain, kinds in worst.items()
    ]
    rows.append(["mean", "", *(shown([c for d in worst for c in cells(m, d)]) for m in methods)])
    images = max(sum(c["images"] for c in cells(m, d)) for m in methods for d in worst)
    return (
        "Teacher's / judge's accuracy on the classes that the teacher recognises worst in plain images; "
        f"{images} images a row and column, on seeds that learning did not see.\n\n"
        + table(["classifier of", "classes", *methods], rows)
    )


def token_gains_table(result: dict) -> str:
    """The study `evidence`: what tokens add in shares of images, over all classes and classifiers.

    Intervals are of a bootstrap over the classes of all classifiers, in which a row and the one without tokens are
    paired. Where no tokens ship, a row is the one without, whatever machine drew it.
    """
    shares = {
        "judge_class": "judge's class",
        "judge_domain": "judge's domain",
        "teacher_class": "classifier's class",
    }

    def classes(method: str) -> dict[tuple[str, str], list[dict]]:
        """What was counted of each domain and class, by seed."""
        found: dict[tuple[str, str], list[dict]] = {}
        for name, row in result["rows"].items():
            of, domain = name.split("/")
            if of == method:
                for by_class in row.get("seeds", {}).values():
                    for label, cell in by_class.items():
                        found.setdefault((domain, label), []).append(cell)
        return found

    def has_tokens(method: str, domain: str) -> bool:
        return bool(result["rows"][f"{method}/{domain}"].get("token_file"))

    rows = []
    for tokens, without, name in (
        ("CAT", "plain", "plain images"),
        ("both", "DAG", "guided images"),
    ):
        ours, theirs = classes(tokens), classes(without)
        paired = sorted(ours.keys() & theirs.keys())
        ours |= {at: theirs[at] for at in paired if not has_tokens(tokens, at[0])}
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
        domains = {domain for domain, _ in paired}
        images = sum(cell["images"] for at in paired for cell in ours[at])
        rows.append([name, str(len(domains)), str(images), *cells])
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
