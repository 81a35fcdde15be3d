"""Every table of the pages in FILLED, and bench/results/kernels*.md, from results: a pure function."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial

from gpu.claims import claims_table

from reports.cluster_table import cluster_table
from reports.cost_tables import (
    cat_compute_table,
    decoders_table,
    evaluator_table,
    gpu_memory_table,
    memory_table,
    onnx_runtime_table,
    sd_scale_table,
)
from reports.current import Current
from reports.evidence_tables import (
    downstream_table,
    embedded_figures_table,
    embedded_table,
    guidance_table,
    methods_table,
    styles_table,
    tune_table,
)
from reports.goals import Goal, goals_table
from reports.guidance_tables import (
    any_classifier_table,
    choices_table,
    few_steps_table,
    guidance_study_table,
)
from reports.kernel_tables import kernels_page, kernels_table
from reports.markdown import fill_all
from reports.out_of_date import out_of_date
from reports.reliability_table import faults_table, reliability_table
from reports.study_tables import (
    ambiguity_table,
    autoencoders_table,
    cifar_table,
    family_plans_table,
    family_support_table,
    selection_table,
)
from reports.throughput_table import throughput_table
from reports.token_tables import shipped_table, token_gains_table, tokens_table, worst_of

Results = dict[str, dict]
"""What the JSON files of bench/results hold, by name."""

FILLED = ("README.md", "docs/results.md", "docs/priors.md", "docs/scale.md", "docs/faults.md")
"""Pages that have tables between markers."""

ABLATION = [
    "plain",
    "CAT",
    "DAG",
    "both",
    "fast",
    "tuned",
    "tuned, fast",
    "plain, domain in the prompt",
]
SUMMARY = ["plain", "plain, domain in the prompt", "DAG", "tuned", "tuned, fast"]
METHODS = [
    "plain",
    "paper DAG",
    "paper DDIS, step of 0.05, own tokens",
    "DAG",
    "tuned, fast",
    "DeepInversion",
    "DeepInversion, 2,000 iterations",
    "Plug-In Inversion",
    "NaturalInversion",
]
COSTS = {
    "throughput": throughput_table,
    "memory": memory_table,
    "decoders": decoders_table,
    "cat_compute": cat_compute_table,
    "onnx_runtime": onnx_runtime_table,
    "evaluator": evaluator_table,
    "sd_scale": sd_scale_table,
    "cluster": cluster_table,
}
"""Tables of the studies by their names, from results of the same names. Without a result, a page has the command."""
STUDIES = {
    "guidance_study": guidance_study_table,
    "few_steps": few_steps_table,
    "choices": choices_table,
    "ambiguity": ambiguity_table,
    "autoencoders": autoencoders_table,
    "any_classifier": any_classifier_table,
    "selection": selection_table,
    "cifar": cifar_table,
    "family_plans": family_plans_table,
    "family_support": family_support_table,
    "reliability": reliability_table,
}
"""As COSTS, of studies that need no quiet machine."""
OTHERS: dict[str, tuple[Callable[..., str], list[str]]] = {
    "embedded": (embedded_table, ["embedded_check"]),
    "embedded_figures": (embedded_figures_table, ["embedded_figures"]),
    "guidance": (guidance_table, ["evidence"]),
    "tokens": (
        lambda evidence, worst: tokens_table(evidence, worst_of(worst)),
        ["evidence", "worst_classes"],
    ),
    "token_gains": (token_gains_table, ["evidence"]),
    "summary": (partial(methods_table, methods=SUMMARY), ["evidence"]),
    "ablation": (partial(methods_table, methods=ABLATION), ["evidence"]),
    "methods": (partial(methods_table, methods=METHODS, seconds=True), ["methods"]),
    "tune": (tune_table, ["tune"]),
    "distill": (partial(downstream_table, task="distill"), ["downstream"]),
    "other_student": (partial(downstream_table, task="other_student"), ["downstream"]),
    "taught_best": (partial(downstream_table, task="best"), ["downstream"]),
    "stream": (partial(downstream_table, task="stream"), ["downstream"]),
    "taught_tokens": (partial(downstream_table, task="tokens"), ["downstream"]),
    "prune": (partial(downstream_table, task="prune"), ["downstream"]),
    "quantise": (partial(downstream_table, task="quantise"), ["downstream"]),
    "styles": (styles_table, ["styles"]),
    "kernels": (kernels_table, ["kernels"]),
    "faults": (faults_table, ["reliability"]),
}
"""Tables, and the results that they are made from. Where one is missing, a page keeps the table that it has."""


def cost_table(name: str, results: Results) -> str:
    """One of COSTS."""
    if name not in results:
        return f"Not measured yet: `python bench/studies {name}`, on a quiet machine."
    return COSTS[name](results[name])


def study_table(name: str, results: Results) -> str:
    """One of STUDIES."""
    if not results.get(name, {}).get("rows"):
        return f"Not measured yet: `python bench/studies {name}`."
    return STUDIES[name](results[name])


def tables(results: Results, now: Current, goals: Sequence[Goal]) -> dict[str, str]:
    """Every table by the name of its markers. Below one, a line says which of its results are out of date."""
    notes = {name: out_of_date(name, result, now) for name, result in results.items()}

    def noted(made: str, sources: list[str]) -> str:
        return made + "".join(notes.get(source, "") for source in sources)

    return {
        **{
            name: noted(make(*(results[source] for source in sources)), sources)
            for name, (make, sources) in OTHERS.items()
            if all(source in results for source in sources)
        },
        **{name: noted(cost_table(name, results), [name]) for name in COSTS},
        **{name: noted(study_table(name, results), [name]) for name in STUDIES},
        "gpu": claims_table(results.get("gpu")),
        "gpu_memory": gpu_memory_table(results.get("gpu")),
        "goals": goals_table(results, goals, [name for name, note in notes.items() if note]),
        "shipped": shipped_table(now.tokens),
    }


def pages(
    texts: Mapping[str, str], results: Results, now: Current, goals: Sequence[Goal]
) -> dict[str, str]:
    """The text of each file that is made from results, by its path.

    texts: of FILLED, whose tables alone change.
    """
    kernels = {
        f"bench/results/{name}.md": kernels_page(result)
        for name, result in results.items()
        if name.startswith("kernels")
    }
    return fill_all(texts, tables(results, now, goals)) | kernels
