"""What tables and goals read of a result and no file holds: means over domains, gains, and intervals of differences."""

from collections.abc import Callable, Mapping, Sequence
from statistics import mean
from typing import Any

import torch

from engine.downstream.intervals import difference

MISUNDERSTOOD = 0.2
"""A name of a class is misunderstood where at most this share of the plain prior's images show the class."""
SHARES = ("judge_class", "judge_domain", "teacher_class")
WITHOUT = {"CAT": "plain", "both": "DAG"}
"""Methods with tokens, and the same without."""
GAINS = ("fid", "coverage")
"""Metrics whose gains are compared."""
SCORES = ("accuracy", "kl")


def summaries(results: Mapping[str, dict]) -> dict[str, dict]:
    """The results, each with its own "summary"; the rows of the evidence are those of `with_tokens`."""
    found = {
        name: result | {"summary": OF[name](result)} if name in OF and "rows" in result else result
        for name, result in results.items()
    }
    if "rows" in (evidence := found.get("evidence", {})):
        rows = {name: with_tokens(evidence, *name.split("/")) for name in evidence["rows"]}
        found["evidence"] = evidence | {"rows": rows}
    return found


def split(result: dict) -> dict[str, dict[str, dict]]:
    """Rows called "variant/domain" as variant -> domain -> row."""
    found: dict[str, dict[str, dict]] = {}
    for name, row in result["rows"].items():
        variant, domain = name.split("/")
        found.setdefault(variant, {})[domain] = row
    return found


def names_by_understanding(result: dict) -> dict[str, list[str]]:
    """The study `ambiguity`: the names that the plain prior misunderstands, and the others."""
    shares: dict[str, list[float]] = {}
    for row in split(result).get("plain", {}).values():
        for name, seeds in row["names"].items():
            shares.setdefault(name, []).extend(seen["head"] for seen in seeds)
    hard = [name for name, seen in shares.items() if mean(seen) <= MISUNDERSTOOD]
    return {"misunderstood": hard, "understood": [name for name in shares if name not in hard]}


def ambiguity(result: dict) -> dict[str, Any]:
    """Of each kind of names, recipe and domain: the share of images that show the class. And the least of a name.

    Kinds are those of `names_by_understanding`, and "own": the classes' own names.
    """
    kinds, found = names_by_understanding(result), dict[str, Any]()
    for recipe, rows in split(result).items():
        for domain, row in rows.items():
            seen = {kind: [row["names"].get(one) for one in names] for kind, names in kinds.items()}
            seen["own"] = list(row.get("own_names", {}).values())
            for kind, names in seen.items():
                each = [mean(one["head"] for one in seeds) for seeds in names if seeds]
                if each:
                    cell = {"mean": mean(each), "least": min(each)}
                    found.setdefault(kind, {}).setdefault(recipe, {})[domain] = cell
    return found


def with_tokens(result: dict, method: str, domain: str) -> dict:
    """A row of the evidence. Where a classifier has no tokens, it is that of the method without, whoever drew it."""
    row = result["rows"].get(f"{method}/{domain}", {})
    if method in WITHOUT and row and not row.get("token_file"):
        return result["rows"].get(f"{WITHOUT[method]}/{domain}", {})
    return row


def token_gains(result: dict) -> dict[str, dict[str, Any]]:
    """The study `evidence`: what tokens add in shares of images, over all classes and classifiers.

    Intervals are of a bootstrap over the classes of all classifiers, in which a row and the one without tokens are
    paired.
    """
    domains = list(dict.fromkeys(name.split("/")[1] for name in result["rows"]))

    def classes(method: str) -> dict[tuple[str, str], list[dict]]:
        """What was counted of each domain and class, by seed."""
        found: dict[tuple[str, str], list[dict]] = {}
        for domain in domains:
            for by_class in with_tokens(result, method, domain).get("seeds", {}).values():
                for label, cell in by_class.items():
                    found.setdefault((domain, label), []).append(cell)
        return found

    gains = {}
    for tokens, without in WITHOUT.items():
        ours, theirs = classes(tokens), classes(without)
        paired = sorted(ours.keys() & theirs.keys())
        if not paired:
            continue
        gains[tokens] = {
            "classifiers": len({domain for domain, _ in paired}),
            "images": sum(cell["images"] for at in paired for cell in ours[at]),
        }
        for share in SHARES:
            values = (
                torch.tensor([[mean(cell[share] for cell in of[at]) for at in paired]])
                for of in (ours, theirs)
            )
            gains[tokens][share] = difference(*values)
    return gains


def domain_gains(result: dict) -> dict[str, dict[str, float]]:
    """The study `any_classifier`: each way's gain over plain, as a share of BatchNorm's, on the mean of the domains."""
    ways = split(result)
    domains = {domain for rows in ways.values() for domain in rows}
    means = {
        way: {
            metric: mean(row["metrics"][metric]["value"] for row in rows.values())
            for metric in GAINS
        }
        for way, rows in ways.items()
        if len(rows) == len(domains)
    }
    plain, best = (means.get(way) for way in ("plain", "resnet, BatchNorm"))
    if plain is None or best is None:
        return {}
    return {
        way: {
            metric: (values[metric] - plain[metric]) / (best[metric] - plain[metric])
            for metric in GAINS
        }
        for way, values in means.items()
        if way != "plain"
    }


def differences(
    domains: Mapping[str, dict], ours: str = "folder"
) -> dict[str, dict[str, dict[str, float]]]:
    """A task of the study `downstream`, by domain: of each set, what ours reach less what it does, on their mean.

    ours: the set that is held against the others. Domains are of different networks and images, so the squares of what
    their intervals reach add up. Without the sets that a domain lacks.
    """
    found = {}
    for name in dict.fromkeys(name for row in domains.values() for name in row["rows"]):
        less = f"difference_to_{ours}"
        each = [row["rows"].get(name, {}).get(less) for row in domains.values()]
        if all(each):
            found[name] = {
                score: _reversed_mean([of[score] for of in each if of]) for score in SCORES
            }
    return found


def mean_interval(each: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """The mean of independent values, each with its "low" and "high": the squares of what these reach add up."""
    middle = mean(of["value"] for of in each)
    below, above = (
        sum((of[end] - of["value"]) ** 2 for of in each) ** 0.5 / len(each)
        for end in ("low", "high")
    )
    return {"low": middle - below, "value": middle, "high": middle + above}


def _reversed_mean(each: list[Mapping[str, float]]) -> dict[str, float]:
    """The mean of differences with their signs reversed, and its interval."""
    negated = [{"low": -of["high"], "value": -of["mean"], "high": -of["low"]} for of in each]
    found = mean_interval(negated)
    return {"low": found["low"], "mean": found["value"], "high": found["high"]}


OF: dict[str, Callable[[dict], dict]] = {
    "ambiguity": ambiguity,
    "evidence": token_gains,
    "any_classifier": domain_gains,
    "downstream": lambda result: {
        task: differences(domains) for task, domains in split(result).items()
    },
}
"""Summaries by the result that they are of."""
