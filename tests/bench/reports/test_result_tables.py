"""Tables of results by hand: what stands in a row, and what is said of what is missing or short of its goal."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "bench"))
from cost_tables import evaluator_table
from evidence_tables import downstream_table, methods_table, styles_table, tune_table
from goals_table import goals_table
from study_tables import selection_table

sys.path.pop(0)


def metrics(fid: float, precision: float = 0.5, recall: float = 0.25) -> dict:
    values = {"fid": fid, "kid": 0.1, "precision": precision, "recall": recall}
    return {name: {"value": value, "low": value, "high": value} for name, value in values.items()}


def made(fid: float, flops: float = 1e9, **more: float) -> dict:
    return {
        "metrics": metrics(fid, **more),
        "flops_per_image": flops,
        "seconds_per_image": 1.0,
        "images": 7,
    }


def cells(table: str, first: str) -> list[str]:
    """The cells of the row that begins with `first`, bold or not, without the first."""
    (line,) = [line for line in table.splitlines() if line.startswith(f"| {first} |")]
    return [cell.strip() for cell in line.split("|")[2:-1]]


def test_tune_chooses_the_least_score_and_is_held_against_the_least_fid() -> None:
    rows = {
        "photo/0.2": {"score": 0.1, "fid": 8.0},
        "photo/0.4": {"score": -0.2, "fid": 6.0},
        "photo/0.8": {"score": 0.3, "fid": 5.0},
    }
    assert cells(tune_table({"rows": rows}), "photo")[-3:] == ["0.4", "0.8", "1.20"]


def test_a_style_without_test_images_has_an_empty_cell() -> None:
    row = {"accuracy": {"training": 1.0}, "fid": {"plain": 20.04, "ours": 4.96}}
    assert cells(styles_table({"rows": {"own": row}}), "own") == ["1.00", "", "20.0", "5.0"]


def test_selection_means_over_the_domains() -> None:
    shares = {"judge_domain": 0.5, "judge_class": 0.75, "teacher_class": 1.0}
    rows = {
        f"{way}/{domain}": {"metrics": metrics(fid), "shares": shares, "images": 14}
        for way, domain, fid in (("chance", "a", 4), ("chance", "b", 8), ("l_bn_share", "a", 3))
    }
    table = selection_table({"rows": rows, "settings": {"keep": 0.5, "method": "both"}})
    assert table.startswith("14 images")
    assert cells(table, "chance") == ["4.0", "8.0", "6.0", "0.50", "0.25", "0.50", "0.75", "1.00"]
    assert cells(table, "l_bn_share")[:3] == ["3.0", "", "3.0"]


def test_a_method_that_is_not_measured_everywhere_has_no_mean() -> None:
    rows = {"plain/a": made(10), "plain/b": made(20), "paper DDIS/a": made(30)}
    table = methods_table({"rows": rows}, ["plain", "paper DDIS", "gone"])
    assert cells(table, "plain")[2] == "15.0"
    assert cells(table, "the paper's guidance, our tokens")[:3] == [
        "30.0 (30.0 to 30.0)",
        "not measured",
        "",
    ]
    assert "gone" not in table


def entry(mean: float, images: int = 7) -> dict:
    return {"images": images, "accuracy": {"mean": mean, "spread": None, "values": [mean]}}


def test_means_of_what_images_teach_are_over_sets_that_all_domains_have() -> None:
    rows = {
        "prune/a": {
            "teacher": {"accuracy": 0.8},
            "rows": {"folder": entry(0.6), "noise": entry(0.2)},
        },
        "prune/b": {"teacher": {"accuracy": 0.6}, "rows": {"folder": entry(0.4)}},
        "distill/a": {"teacher": {"accuracy": 0.1}, "rows": {"folder": entry(0.1)}},
    }
    table = downstream_table({"rows": rows}, "prune")
    assert cells(table, "mean") == ["", "70.0", "50.0", ""]
    assert cells(downstream_table({"rows": rows}, "distill"), "a") == ["7", "10.0", "10.0"]


def test_students_of_more_sets_stand_beside_the_others_and_only_there() -> None:
    rows = {
        "more/b": {"rows": {"folder": entry(0.7, images=14)}},
        "distill/a": {"teacher": {"accuracy": 0.8}, "rows": {"folder": entry(0.5)}},
        "distill/b": {"teacher": {"accuracy": 0.8}, "rows": {"folder": entry(0.6)}},
        "prune/b": {"teacher": {"accuracy": 0.8}, "rows": {"folder": entry(0.4)}},
    }
    table = downstream_table({"rows": rows}, "distill")
    assert "| ours | twice as many of ours |" in table
    assert cells(table, "b") == ["7", "80.0", "60.0", "70.0"]
    assert cells(table, "a") == ["7", "80.0", "50.0", ""]
    assert cells(downstream_table({"rows": rows}, "prune"), "b") == ["7", "80.0", "40.0"]


def test_a_goal_that_is_missed_is_bold_and_one_that_was_not_measured_says_so() -> None:
    ours, theirs = made(4, precision=0.9, recall=0.1), made(20, 3e9)
    found = {
        "evidence": {
            "rows": {"plain/a": theirs, "DAG/a": made(3), "both/a": ours, "paper DAG/a": theirs}
        },
        "methods": {
            "rows": {
                "both/a": ours,
                "DeepInversion/a": made(5),
                "Plug-In Inversion/a": made(50),
                "NaturalInversion/a": made(40),
            }
        },
        "guidance_study": {
            "rows": {
                "90 % of the schedule, CFG 4/a": made(9),
                "paper/a": made(30),
                "paper, step of 0.05/a": made(8),
                "paper, step of 0.01/a": made(20),
            }
        },
        "downstream": {
            "rows": {
                "distill/a": {
                    "rows": {"folder": entry(0.6), "original": entry(0.7), "plain": entry(0.5)}
                }
            }
        },
        "evaluator": {
            "equal": {"values": {"fid": {"relative_gap": 1e-9}}},
            "stream": {"peak_bytes": 2**29, "width": 2048, "values": {"rows": 100_000}},
            "narrow_neighbours": {"peak_bytes": 2**30, "width": 128, "values": {"rows": 100_000}},
        },
    }
    table = goals_table(found)
    assert cells(table, "FID: both below DAG") == ["**4.0 / 3.0**", "0 of 1"]
    assert cells(table, "FID: DAG below plain") == ["3.0 / 20.0", "1 of 1"]
    assert cells(table, "FID: CAT below plain") == ["not measured", ""]
    assert cells(table, "recall: plain below both") == ["**0.25 / 0.10**", "0 of 1"]
    of_paper = "FID, of 56 images: DAG below the paper's guidance with the best of three steps"
    assert cells(table, of_paper) == ["**9.0 / 8.0**", "0 of 1"]
    assert "**1.25 (DeepInversion)**" in table
    assert "**0.86**" in table
    assert "+10.0" in table
    assert cells(table, "mean FID of both at most half of plain's") == ["0.20", "yes"]
    assert cells(table, "compute of an image at most the paper's guidance's") == ["0.33", "yes"]
    memory = "100,000 rows in less than 2 GiB, for FID and for neighbours"
    assert cells(table, memory) == ["1.00 GiB for 100,000 of 2,048 and 128 features", "yes"]


def test_the_evaluator_shows_the_parts_that_were_run() -> None:
    equal = {"values": {"fid": {"ours": 1.0, "library": 1.0, "relative_gap": 1e-12}}}
    stream = {"values": {"rows": 100, "fid_s": 1.0, "kid_s": 2.0}, "peak_bytes": 2**29, "width": 8}
    table = evaluator_table({"equal": equal, "stream": stream})
    assert cells(table, "FID, and KID of 10 subsets") == ["100", "8", "0.50", "3"]
    assert "precision, recall" not in table
