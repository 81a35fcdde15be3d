"""The pages have the tables that the committed results make. No test writes a page: `make tables` does."""

from pathlib import Path

from reports.current import Current
from reports.goals import read_goals
from reports.pages import COSTS, FILLED, STUDIES, cost_table, pages, study_table, tables
from reports.reading import read_current, read_results

ROOT = Path(__file__).resolve().parents[3]


def test_the_committed_pages_are_what_the_committed_results_make() -> None:
    texts = {name: (ROOT / name).read_text() for name in FILLED}
    made = pages(texts, read_results(ROOT / "bench" / "results"), read_current(), read_goals())
    assert {*made} == {*FILLED, "bench/results/kernels.md"}
    for name, text in made.items():
        assert text == (ROOT / name).read_text(), f"{name} is old: run `make tables`"


def test_a_result_that_is_out_of_date_says_so_below_each_of_its_tables(now: Current) -> None:
    results = read_results(ROOT / "bench" / "results")
    made = tables(results, now, [])
    for name in ("ablation", "guidance", "tune", "cat_compute", "guidance_study", "embedded"):
        assert made[name].endswith("now ships now."), name
    assert "Out of date" not in made["kernels"]
    assert made["tokens"].count("Out of date") == 2  # the evidence, and the worst classes
    assert "Out of date" not in tables({"evidence": results["evidence"]}, now, [])["evaluator"]


def test_what_has_no_result_yet_names_its_command() -> None:
    for names, table in ((COSTS, cost_table), (STUDIES, study_table)):
        for name in names:
            assert table(name, {}).startswith(f"Not measured yet: `python bench/studies {name}`")
            assert (ROOT / "bench" / "studies" / f"{name}.py").exists()
