"""Ambiguous names: does an image show the class, or what else its name says? Tokens in place of a name, and the others.

    python bench/studies ambiguity                                   all recipes and domains
    python bench/studies ambiguity --domains photo --recipes plain "token instead"
    python bench/studies ambiguity --smoke                           two recipes, one domain, few images, kept nowhere

A prior that is asked for "a tiger cat" draws a tiger. The embedded prior has such names too: in "a house dog" it sees
the house. Most of NAMES are compounds whose last word is the class; two are words of the prior's captions that mean
other classes too. Some a prior misunderstands and some not, which the rows of `plain` say of it. Classifiers keep
their classes, of which some get these names. What a token costs where the name is right is measured as well: all
classes by their own names, OWN_NAMED alone, and a token is learned whether one is needed or not. With one core, a
recipe takes about 5 minutes a domain and seed of learning, a guided one 9. An interrupted run resumes.
"""

import argparse
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any, Literal

import torch
from result_files import RESULTS
from torch import Tensor
from torch.nn.functional import cross_entropy

from engine.classifiers import Classifier, load_classifier
from engine.embedded.captions import AMBIGUOUS, KINDS
from engine.embedded.judge import Judge, load_judge
from engine.evaluation.metrics import kid
from engine.evaluation.neighbours import neighbours
from engine.priors import Prior, load_prior
from engine.runners.generate import generate
from engine.runners.learn_lora import learn_lora
from engine.runners.learn_tokens import learn_tokens
from engine.settings import Sampling, TokenLearning
from engine.settings.lora import LoraLearning
from engine.settings.methods import DDIS, Plain
from engine.tokens.table import TokenTable
from studies.options import several
from studies.rows import DTYPE, rows_by_domain

LASTS = "5 hours"
SEED = 1700
"""Images of this seed are for this study alone; tokens are learned from other ones."""
RESULT = RESULTS / "ambiguity.json"
NAMES = (
    {"dog": "house dog", "house": "elephant house", "person": "horse person"},
    {"house": "horse house", "person": "guitar person"},
    {"person": "dog person", "house": "dog house"},
    {"horse": "animal", "dog": "blick"},
)
"""The new names of some classes, in sets that one classifier can have at once."""
ADAPTER_IMAGES = 16
"""Images of each class in an epoch of an adapter; a token in place of a name has as many."""
NEVER_SKIP = {"skip_passing": False}


@dataclass(frozen=True)
class Recipe:
    """How images of such a class are made.

    true_word: by the name that the prior knows. guided: with the default alignment; where it is "drawing", tokens are
    learned without. negative: the other classes that the name may mean are the negative prompt. learning: of tokens;
    None for none. adapter: of the prior, in place of tokens.
    """

    true_word: bool = False
    guided: bool | Literal["drawing"] = False
    negative: bool = False
    learning: TokenLearning | None = None
    adapter: LoraLearning | None = None

    @property
    def learns(self) -> bool:
        return self.learning is not None or self.adapter is not None


INSTEAD = replace(TokenLearning.instead(), **NEVER_SKIP)
BEFORE = replace(TokenLearning(), **NEVER_SKIP)
RECIPES = {
    "plain": Recipe(),
    "true word": Recipe(true_word=True),
    "negative prompt": Recipe(negative=True),
    "token before": Recipe(learning=BEFORE),
    "token instead": Recipe(learning=INSTEAD),
    "token instead, drawn step": Recipe(
        learning=replace(
            BEFORE, place="instead", init="class name", norm_cap=2.0, learning_rate=0.02, epochs=8
        )
    ),
    "token before, early steps": Recipe(learning=replace(INSTEAD, place="before", init="a")),
    "adapter": Recipe(adapter=LoraLearning.of_classes()),
    "guided": Recipe(guided=True),
    "guided, token instead": Recipe(guided=True, learning=INSTEAD),
    "token instead, then guided": Recipe(guided="drawing", learning=INSTEAD),
    "token before, published": Recipe(learning=TokenLearning.paper()),
}
OWN_NAMED = ("plain", "token instead")
"""Recipes that are also measured on the classes' own names."""
SEEDS = {"token instead": 3}
"""Seeds of learning; other recipes have one."""
SMOKE = ("plain", "token instead", "adapter")


def renamed(classifier: Classifier, names: dict[str, str]) -> Classifier:
    """The classifier with other names for some of its classes."""
    return replace(classifier, labels=tuple(names.get(label, label) for label in classifier.labels))


def also_named(name: str, head: str) -> tuple[str, ...]:
    """The classes that a name of the class `head` speaks of too."""
    meant = (KINDS | AMBIGUOUS).get(name, (name.removesuffix(f" {head}"),))
    return tuple(label for label in meant if label != head)


def drawn(
    recipe: Recipe,
    classifier: Classifier,
    head: str,
    name: str,
    prior: Prior,
    tokens: TokenTable | None,
    images: int,
) -> Tensor:
    """Images (N, 3, H, W) of the class `head`, which is called `name`."""
    negative = ", ".join(also_named(name, head)) if recipe.negative else None
    sampling = Sampling() if negative is None else Sampling(negative_prompt=negative)
    method = DDIS(sampling=sampling) if recipe.guided else Plain(sampling=sampling)
    samples = generate(
        renamed(classifier, {} if recipe.true_word else {head: name}),
        prior,
        [head if recipe.true_word else name],
        images,
        method=method,
        tokens=tokens,
        seed=SEED,
    )
    return torch.stack([sample.image for sample in samples])


def measured(
    images: Tensor, classifier: Classifier, judge: Judge, domain: str, head: str, name: str
) -> dict[str, float]:
    """What judge and teacher see, and how much of the class's real variety is there."""
    number = judge.classes.index(head)
    others = torch.tensor([judge.classes.index(label) for label in also_named(name, head)])
    seen = judge(images)[0].cpu()
    logits = classifier.logits(images).cpu()
    wanted = torch.full((len(images),), classifier.labels.index(head))
    real = judge.reference[
        (judge.reference_classes == number)
        & (judge.reference_domains == judge.domains.index(domain))
    ]
    features = judge.features(images)
    near = neighbours(features, real)
    return {
        "head": (seen == number).float().mean().item(),
        "modifier": torch.isin(seen, others).float().mean().item(),
        "teacher": (logits.argmax(1) == wanted).float().mean().item(),
        "cross_entropy": cross_entropy(logits, wanted).item(),
        "coverage": near.covered.float().mean().item(),
        "kid": kid(features, real).mean,
    }


def kept(tokens: TokenTable, label: str) -> str:
    """What the check of the tokens left a class: what was 'learned', its 'start', or 'none'."""
    if label not in tokens.labels:
        return "none"
    training = tokens.training[tokens.classes[tokens.labels.index(label)]]
    return "start" if training.moved is False else "learned"


def learned(
    recipe: Recipe, classifier: Classifier, names: dict[str, str], prior: Prior, seed: int
) -> tuple[Prior, TokenTable | None]:
    """The prior with the adapter of a set of names and the tokens of these, if the recipe has such."""
    classifier, classes = renamed(classifier, names), list(names.values())
    method, tokens = DDIS() if recipe.guided is True else Plain(), None
    if recipe.learning is not None:
        tokens = learn_tokens(classifier, prior, classes, recipe.learning, method=method, seed=seed)
    if recipe.adapter is not None:
        settings = {"images_per_class": ADAPTER_IMAGES, "method": method, "seed": seed}
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "adapter.safetensors"
            learn_lora(classifier, prior, classes, learning=recipe.adapter, out=file, **settings)
            prior = load_prior("embedded", lora=file, device=prior.device, dtype=DTYPE)
    return prior, tokens


def measure(
    recipes: Sequence[str],
    domains: Sequence[str],
    sets: Sequence[dict[str, str]],
    images: int,
    seeds: int | None,
    out: Path,
    smoke: bool = False,
) -> None:
    """Measure what the result in `out` lacks; a row for each recipe and domain. seeds: of learning, None for SEEDS."""
    prior, judge = load_prior("embedded", dtype=DTYPE), load_judge()
    settings = {"images": images, "seed": SEED}
    result = rows_by_domain(out, prior, settings, RECIPES, judge.domains)
    for name, domain in product(recipes, domains):
        recipe = RECIPES[name]
        if smoke and recipe.learning is not None:
            few = replace(recipe.learning, epochs=1, images_per_epoch=2, check_images=0)
            recipe = replace(recipe, learning=few)
        if smoke and recipe.adapter is not None:
            recipe = replace(recipe, adapter=replace(recipe.adapter, epochs=1))
        classifier = load_classifier(f"embedded:{domain}", device=prior.device, dtype=DTYPE)
        key = f"{name}/{domain}"
        row: dict[str, Any] = result.kept(key, {"recipe": asdict(recipe)})
        row.setdefault("names", {})
        wanted = (seeds or SEEDS.get(name, 1)) if recipe.learns else 1
        asked = [("names", seed, names) for seed, names in product(range(wanted), sets)]
        if name in OWN_NAMED and not smoke:
            asked.append(("own_names", 0, {label: label for label in judge.classes}))
        for kind, seed, names in asked:
            found = row.setdefault(kind, {})
            lacking = [one for one in names.values() if len(found.get(one, [])) <= seed]
            if not lacking:
                continue
            began = time.perf_counter()
            own, tokens = learned(recipe, classifier, names, prior, seed)
            for head, compound in names.items():
                if compound in lacking:
                    pictures = drawn(recipe, classifier, head, compound, own, tokens, images)
                    seen = measured(pictures, classifier, judge, domain, head, compound)
                    seen |= {} if tokens is None else {"token": kept(tokens, compound)}
                    found.setdefault(compound, []).append(seen)
            result.add(key, row)
            print(
                f"{key}, seed {seed}: "
                + ", ".join(f"{one} {found[one][-1]['head']:.2f}" for one in names.values())
                + f", {time.perf_counter() - began:.0f} s",
                flush=True,
            )


def main() -> None:
    domains = load_judge().domains
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    several(parser, "--recipes", RECIPES)
    several(parser, "--domains", domains)
    parser.add_argument("--images", type=int, default=24, help="images of each name")
    parser.add_argument(
        "--seeds", type=int, help="of learning (default: 3 of `token instead`, 1 of the others)"
    )
    parser.add_argument("--out", type=Path, default=RESULT)
    parser.add_argument("--smoke", action="store_true", help="see that it runs; nothing is kept")
    chosen = parser.parse_args()
    if chosen.smoke:
        with tempfile.TemporaryDirectory() as folder:
            out = Path(folder) / "result.json"
            measure(SMOKE, domains[:1], NAMES[:1], 4, 1, out, smoke=True)
        return
    measure(chosen.recipes, chosen.domains, NAMES, chosen.images, chosen.seeds, chosen.out)
