"""Markdown tables of the tokens that ship, and of what they do."""

from collections.abc import Mapping
from statistics import mean

from reports.current import Shipped
from reports.markdown import signed, table
from reports.summaries import SHARES, token_gains, with_tokens


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
        seeds = with_tokens(result, method, domain).get("seeds", {})
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
    """The study `evidence`: what tokens add in shares of images, over all classes and classifiers."""
    gains, rows = token_gains(result), []
    for tokens, name in (("CAT", "plain images"), ("both", "guided images")):
        if (found := gains.get(tokens)) is None:
            continue
        cells = [str(found["classifiers"]), str(found["images"])]
        for share in SHARES:
            gain = {end: signed(100 * value, 1) for end, value in found[share].items()}
            cells.append(f"{gain['mean']} ({gain['low']} to {gain['high']})")
        rows.append([name, *cells])
    if not rows:
        return "Not measured yet: `python bench/studies evidence --methods CAT both`."
    names = ["judge's class", "judge's domain", "classifier's class"]
    return table(["points more with tokens", "classifiers", "images", *names], rows)


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
