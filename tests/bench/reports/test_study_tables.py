"""Tables of studies that are runs of their own, from results by hand."""

import pytest
from reports.cluster_table import cluster_table
from reports.reliability_table import faults_table, reliability_table
from reports.study_tables import (
    SUPPORT,
    ambiguity_table,
    autoencoders_table,
    cifar_table,
    family_plans_table,
    family_support_table,
    selection_table,
)


def test_students_of_cifar_are_told_beside_what_their_images_cost() -> None:
    def row(mean: float, spread: float | None, **cost: float) -> dict:
        facts = {"images": 500, "measured_images": 10000, "teacher": {"accuracy": 0.85}}
        facts |= {"distillation": {"epochs": 30}, "agreement": {"mean": 0.5}}
        facts |= {"kl": {"mean": 2.5, "spread": spread}}
        return facts | {"accuracy": {"mean": mean, "spread": spread}} | cost

    rows = {"deepinversion": row(0.25, 0.012, flops_per_image=155e9, seconds_per_image=1.84)}
    rows |= {"noise": row(0.1, None), "original": row(0.4, 0.01)}
    rows |= {"ours": row(0.35, 0.01, flops_per_image=9e9, seconds_per_image=0.2)}
    rows |= {
        "all original": {**row(0.8, None), "images": 50000},
        "ours, as long": {**row(0.6, None), "images": 250},
        "stream": {**row(0.7, None), "images": 10000, "updates": 5000},
    }
    result = {"rows": rows, "settings": {"seeds": 3, "iterations": 240}}
    result["environment"] = {"device": "cpu", "threads": 1}
    table = cifar_table(result)
    assert (
        "500 images of each set, 3 students each, 30 passes; top-1 in percent on 10000 test images"
        in table
    )
    assert "the teacher has 85.0. 240 iterations of DeepInversion" in table
    assert "on cpu, 1 thread." in table
    assert (
        "After 5,000 updates one student has 70.0 from a stream of 10,000 of ours, 60.0 from 250 of them, and 80.0 "
        "from all 50,000 original images." in table
    )
    lines = table.splitlines()
    assert lines[-4:] == [
        "| original | 40.0 ± 1.0 | 50.0 | 2.50 ± 0.01 |  |  |",
        "| ours | 35.0 ± 1.0 | 50.0 | 2.50 ± 0.01 | 9 | 0.2 |",
        "| DeepInversion | 25.0 ± 1.2 | 50.0 | 2.50 ± 0.01 | 155 | 1.8 |",
        "| noise | 10.0 | 50.0 | 2.50 |  |  |",
    ]


def test_selection_means_over_the_domains(metrics, cells) -> None:
    shares = {"judge_domain": 0.5, "judge_class": 0.75, "teacher_class": 1.0}
    rows = {
        f"{way}/{domain}": {"metrics": metrics(fid), "shares": shares, "images": 14}
        for way, domain, fid in (("chance", "a", 4), ("chance", "b", 8), ("l_bn_share", "a", 3))
    }
    table = selection_table({"rows": rows, "settings": {"keep": 0.5, "method": "both"}})
    assert table.startswith("14 images")
    assert cells(table, "chance") == ["4.0", "8.0", "6.0", "0.50", "0.25", "0.50", "0.75", "1.00"]
    assert cells(table, "l_bn_share")[:3] == ["3.0", "", "3.0"]


def test_families_are_told_by_what_they_take(cells) -> None:
    fits = {
        "licence": "free",
        "quantise": "nf4",
        "fits": True,
        "components": {"transformer": "denoiser", "text_encoder": "text encoder", "vae": "decoder"},
        "weights_bytes": {
            "transformer": {"none": 8 * 10**9, "nf4": 2 * 10**9},
            "text_encoder": {"none": 4 * 10**9, "nf4": 10**9},
            "vae": {"none": 2 * 10**8},
            "classifier": {"none": 5 * 10**7},
        },
        "peak_bytes": {"text": 3 * 10**9, "sampling": 4 * 10**9},
        "smallest_bytes": 35 * 10**8,
        "image_px": 1024,
        "step_flops": 4 * 10**12,
        "steps": 20,
        "image_flops": 100 * 10**12,
        "guided_image_flops": 103 * 10**12,
    }
    result = {
        "settings": {"memory": "12GB", "classifier": "arch:resnet50", "dtype": "bfloat16"},
        "rows": {"small": fits, "large": {"licence": "own", "fits": False, "why": "too small"}},
    }
    table = family_plans_table(result)
    assert "guided by resnet50, planned for a GPU of 12GB" in table
    assert cells(table, "small") == [
        "NF4",
        "2.0 / 1.0 / 0.2",
        "1024",
        "4.0 (sampling)",
        "3.5",
        "4,000",
        "100,000 (20)",
        "1.03",
        "free",
    ]
    assert cells(table, "large")[3] == "does not fit"


def test_a_family_can_do_what_some_test_shows(cells) -> None:
    rows = {"sd": {"own loop": ["test_a"], "plan": ["test_b"]}, "lcm": {"guided": ["test_c"]}}
    table = family_support_table({"rows": rows})
    shown = dict(zip(SUPPORT, cells(table, "sd"), strict=True))
    assert {column for column, cell in shown.items() if cell} == {"own loop", "plan"}
    assert cells(table, "lcm")[:3] == ["", "yes", ""]


@pytest.mark.parametrize(
    ("process", "ray", "said", "cells"),
    [
        (
            [20.0],
            [21.0],
            "on a machine; one run of each, so the figures are rough:",
            "| 20.0 s | 21.0 s | +5.0% |",
        ),
        (
            [20.0, 30.0, 25.0],
            [21.0, 30.0, 25.5],
            "on a machine; 3 runs of each, in turn: mean (least to most):",
            "| 25.0 s (20.0 to 30.0) | 25.5 s (21.0 to 30.0) | +2.0% (+0.0% to +5.0%) |",
        ),
    ],
)
def test_the_overhead_of_ray_says_how_many_runs_it_is_of(
    process: list[float], ray: list[float], said: str, cells: str
) -> None:
    row = {"workers": 1, "parts": 28, "process_cpu_seconds": process, "ray_cpu_seconds": ray}
    row["overhead"] = sum(ray) / sum(process) - 1
    text = cluster_table({"settings": {}, "hardware": {"device": "a machine"}, "ray": [row]})
    assert said in text
    assert cells in text


def test_a_number_below_a_goal_does_not_read_as_the_goal() -> None:
    row = {"workers": 16, "parts": 2999, "parts_a_second": 499.53, "parts_a_cpu_second": 1053.2}
    assert "| 499.5 |" in cluster_table({"settings": {}, "calls": [row]})


def test_faults_stand_apart_from_kills_and_rows_that_tried_the_same_are_one(cells) -> None:
    def row(tried: str, times: int, ways: dict[str, int]) -> dict:
        counts = {"times": times, "as_promised": sum(ways.values()), "ways": ways, "wrong": []}
        return {"tried": tried} | counts

    killed = {"kills": 3, "runs": 2, "equal": 2, "half_written": [], "leftovers": 1}
    rows = {
        "generate": killed,
        "disk full: generate": row("`generate`, from each write on", 5, {"one line": 4}),
        "two processes: fit": row("twice", 2, {"refused": 2}),
        "two processes: tune": row("twice", 3, {"both ended well": 2, "refused": 1}),
    }
    table = faults_table({"rows": rows})
    assert "4: one line 4 | 1 |" in table
    assert cells(table, "two processes") == [
        "twice: `fit`, `tune`",
        "5",
        "5: refused 3, both ended well 2",
        "0",
    ]
    assert len(table.splitlines()) == 4
    assert cells(reliability_table({"rows": rows}), "`generate`") == ["3", "2", "2", "0", "1"]
    assert len(reliability_table({"rows": rows}).splitlines()) == 3


def test_what_an_autoencoder_keeps_is_held_against_the_images_themselves(cells) -> None:
    domains = {
        "art_painting": {
            "real test images": {"fid": 0.5, "coverage": 0.8},
            "real test images through the autoencoder": {"fid": 1.25, "coverage": 0.6},
            "psnr_db": 24.04,
        }
    }
    row = {
        "domains": domains,
        "parameters": 712_000,
        "updates": {"squared": 2000, "likeness": 300},
        "denoiser_flops": 583e6,
    }
    settings = {"minutes": 15.0, "hardware": {"device": "a chip", "threads": 1}}
    table = autoencoders_table({"settings": settings, "rows": {"4 channels": row}})
    assert table.startswith("15 minutes each; a chip, threads: 1.")
    assert cells(table, "4 channels") == ["1.25 / 0.75 / 24.0", "0.71", "2,000 + 300", "0.58"]


def test_names_are_told_apart_by_what_the_plain_prior_makes_of_them(cells) -> None:
    def seen(**heads: float) -> dict:
        rest = {"modifier": 0.5, "teacher": 0.25, "cross_entropy": 2.0, "coverage": 0.125}
        return {"names": {name: [{"head": head, **rest}] for name, head in heads.items()}}

    rows = {
        "plain/a": seen(easy=0.75, hard=0.0),
        "plain/b": seen(easy=0.25, hard=0.25),
        "token instead/a": seen(easy=0.5, hard=1.0),
        "token before/a": seen(easy=0.5),
    }
    table = ambiguity_table({"rows": rows, "settings": {"images": 4}})
    assert "by the judge: hard; others: easy." in table
    assert "KID" not in table  # nor tokens kept: results of old have neither
    rest = ["0.50", "0.25", "2.00", "0.12"]
    assert cells(table, "plain") == ["0.12", "0.00", *rest, "0.50", "2"]
    assert cells(table, "token instead") == ["1.00", "1.00", *rest, "0.50", "1"]
    assert cells(table, "token before") == [*[""] * 6, "0.50", "1"]
    for token, seed in (("learned", 1), ("none", 2)):
        again = rows["token instead/a"]["names"]["hard"]
        again.append(again[0] | {"head": 0.5, "kid": 0.25, "token": token})
        assert len(again) == seed + 1
    table = ambiguity_table({"rows": rows, "settings": {"images": 4}})
    assert cells(table, "token instead") == ["0.67", "0.67", *rest, "0.25", "0.50", "1 of 2", "1"]
    own = seen(dog=0.5, house=0.75)["names"]
    rows["token instead/a"]["own_names"] = own
    table = ambiguity_table({"rows": rows, "settings": {"images": 4}})
    assert cells(table, "token instead")[-4:] == ["0.50", "0.62", "1 of 2", "1"]
