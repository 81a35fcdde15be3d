"""Tables of what the images are like and what they teach, from results by hand."""

from reports.evidence_tables import (
    downstream_table,
    guidance_table,
    methods_table,
    styles_table,
    tune_table,
)


def test_guidance_is_averaged_over_classes_and_seeds(cell) -> None:
    seeds = {
        "0": {"dog": cell(), "cat": cell(judge_domain=0.6)},
        "1": {"dog": cell(), "cat": cell(l_bn=140.0)},
    }
    table = guidance_table(
        {"rows": {"plain/sketch": {"seeds": seeds}, "DAG/photo": {"seeds": seeds}}}
    )
    assert "| classifier of | plain | DAG |" in table
    assert "| sketch | 0.30 / 0.50 / 110 | not measured |" in table
    assert "| mean | 0.30 / 0.50 / 110 | 0.30 / 0.50 / 110 |" in table
    assert "plain 28, DAG 28." in table


def test_a_method_has_means_where_each_domain_was_measured(cells) -> None:
    entry = {"value": 4.0, "low": 3.0, "high": 5.0}
    row = {"seeds": {}, "images": 9, "flops_per_image": 2e9}
    row["metrics"] = dict.fromkeys(("fid", "kid", "precision", "recall", "coverage"), entry)
    rows = {
        "plain/photo": row,
        "plain/sketch": row,
        "both/photo": row | {"token_file": "0123"},
        "both/sketch": {"seeds": {}},
    }
    table = methods_table({"rows": rows}, ["plain", "both"])
    assert cells(table, "plain") == [
        *("4.0 (3.0 to 5.0)", "4.0 (3.0 to 5.0)", "4.0 (3.3 to 4.7)"),  # 1 / sqrt(2) of the mean
        *("4.000", "4.00", "4.00", "4.00 (3.29 to 4.71)", "2", "9"),
    ]
    assert cells(table, "both")[:3] == ["4.0 (3.0 to 5.0)", "not measured", ""]
    assert "none" not in methods_table({"rows": rows}, ["plain", "none"])


def test_downstream_accuracies_are_in_percent_beside_the_classifier() -> None:
    def entry(mean: float, spread: float | None) -> dict:
        return {"images": 350, "accuracy": {"mean": mean, "spread": spread}}

    row = {
        "teacher": {"accuracy": 0.8},
        "rows": {"original": entry(0.5, 0.01), "folder": entry(0.45, None)},
    }
    result = {"rows": {"distill/photo": row, "prune/photo": {}}}
    table = downstream_table(result, "distill")
    assert "| classifier of | images | classifier | original | ours |" in table
    assert "| photo | 350 | 80.0 | 50.0 ± 1.0 | 45.0 |" in table


def test_without_tokens_a_row_is_the_one_that_has_none(cells, cell, made) -> None:
    """Whoever drew it again: `both` of a classifier without tokens is `DAG`."""
    drawn = {"seeds": {"0": {"dog": cell()}}}
    rows = {
        "DAG/a": made(3) | drawn,
        "both/a": made(4) | {"seeds": {"0": {"dog": cell(judge_domain=0.9)}}, "token_file": None},
    }
    ablation = methods_table({"rows": rows}, ["DAG", "both"])
    assert cells(ablation, "DAG") == cells(ablation, "both")
    assert cells(guidance_table({"rows": rows}), "a") == ["0.20 / 0.50 / 100"] * 2


def test_tune_chooses_the_least_score_and_is_held_against_the_least_fid(cells) -> None:
    rows = {
        "photo/0.2": {"score": 0.1, "fid": 8.0},
        "photo/0.4": {"score": -0.2, "fid": 6.0},
        "photo/0.8": {"score": 0.3, "fid": 5.0},
    }
    assert cells(tune_table({"rows": rows}), "photo")[-3:] == ["0.4", "0.8", "1.20"]
    prompts = {
        "photo/{a} {class}": {"score": 0.2, "fid": 9.0},
        "photo/a photo of {a} {class}": {"score": 0.1, "fid": 7.5},
    }
    styles, scales = tune_table({"rows": prompts | rows}).split("Scales, with the prompt")
    assert cells(styles, "photo") == [
        *("0.20 / 9.0", "0.10 / 7.5"),
        *("a photo of {a} {class}", "a photo of {a} {class}", "1.00"),
    ]
    assert cells(scales, "photo")[-3:] == ["0.4", "0.8", "1.20"]


def test_a_style_without_test_images_has_an_empty_cell(cells) -> None:
    row = {"accuracy": {"training": 1.0}, "fid": {"plain": 20.04, "ours": 4.96}}
    assert cells(styles_table({"rows": {"own": row}}), "own") == ["1.00", "", "20.0", "5.0"]


def test_a_method_that_is_not_measured_everywhere_has_no_mean(made, cells) -> None:
    rows = {"plain/a": made(10), "plain/b": made(20), "paper DDIS/a": made(30)}
    table = methods_table({"rows": rows}, ["plain", "paper DDIS", "gone"])
    assert cells(table, "plain")[2] == "15.0 (15.0 to 15.0)"
    assert cells(table, "the paper's guidance, our tokens")[:3] == [
        "30.0 (30.0 to 30.0)",
        "not measured",
        "",
    ]
    assert "gone" not in table


def test_means_of_what_images_teach_are_over_sets_that_all_domains_have(taught, cells) -> None:
    rows = {
        "prune/a": {
            "teacher": {"accuracy": 0.8},
            "rows": {"folder": taught(0.6), "noise": taught(0.2)},
        },
        "prune/b": {"teacher": {"accuracy": 0.6}, "rows": {"folder": taught(0.4)}},
        "distill/a": {"teacher": {"accuracy": 0.1}, "rows": {"folder": taught(0.1)}},
    }
    table = downstream_table({"rows": rows}, "prune")
    assert cells(table, "mean") == ["", "70.0", "50.0", ""]
    assert cells(downstream_table({"rows": rows}, "distill"), "a") == ["7", "10.0", "10.0"]


def test_divergence_stands_behind_accuracy_and_sets_of_other_sizes_tell_theirs(
    taught, cells
) -> None:
    def of(mean: float, kl: float, images: int = 7) -> dict:
        return {**taught(mean, images), "kl": {"mean": kl, "spread": None, "values": [kl]}}

    rows = {
        "distill/a": {
            "teacher": {"accuracy": 0.8},
            "rows": {"folder": of(0.5, 1.0), "named": of(0.4, 1.5)},
        },
        "distill/b": {"teacher": {"accuracy": 0.8}, "rows": {"folder": of(0.6, 0.5)}},
        "stream/b": {
            "teacher": {"accuracy": 0.8},
            "rows": {"folder": of(0.6, 0.5), "stream": of(0.7, 0.25, images=1400)},
        },
    }
    table = downstream_table({"rows": rows}, "distill")
    assert "| ours | plain prior, domain in the prompt |" in table
    assert cells(table, "a") == ["7", "80.0", "50.0 / 1.00", "40.0 / 1.50"]
    assert cells(table, "b") == ["7", "80.0", "60.0 / 0.50", ""]
    assert cells(table, "mean") == ["", "80.0", "55.0 / 0.75", ""]
    streamed = cells(downstream_table({"rows": rows}, "stream"), "b")
    assert streamed == ["80.0", "60.0 / 0.50 (7 images)", "70.0 / 0.25 (1,400 images)"]


def test_what_ours_lack_is_of_the_mean_of_the_domains(taught, cells) -> None:
    """Domains do not depend on each other: an interval of two is narrower than either's."""

    def less(accuracy: float, kl: float) -> dict:
        return {
            "accuracy": {"mean": accuracy, "low": accuracy - 0.03, "high": accuracy + 0.04},
            "kl": {"mean": kl, "low": kl - 0.3, "high": kl + 0.4},
        }

    other = {
        name: {**taught(0.6, 7), "difference_to_folder": less(*gap)}
        for name, gap in (("a", (0.10, -0.2)), ("b", (0.02, -0.1)))
    }
    rows = {
        f"distill/{name}": {
            "teacher": {"accuracy": 0.8},
            "rows": {"folder": taught(0.5, 7), "other": row, "noise": taught(0.1, 7)},
        }
        for name, row in other.items()
    }
    rows["tokens/a"] = {
        "teacher": {"accuracy": 0.8},
        "rows": {"folder": taught(0.5, 7), "plain": other["a"]},
    }
    tokens = downstream_table({"rows": rows}, "tokens")
    assert "| with tokens | plain prior |" in tokens
    assert "| with tokens less |" in tokens
    table = downstream_table({"rows": rows}, "distill")
    assert cells(table, "other real images") == [
        "-6.0 (-8.8 to -3.9)",
        "+0.15 (-0.13 to +0.36)",
    ]
    assert table.splitlines()[-2].startswith("|---")  # noise has none


def test_a_task_that_was_not_run_names_its_command() -> None:
    rows = {"distill/a": {"teacher": {"accuracy": 0.1}, "rows": {}}}
    assert "--tasks prune`" in downstream_table({"rows": rows}, "prune")
