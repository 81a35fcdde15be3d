"""The README's tables are those that the committed results make."""

import importlib.util
import json
import sys
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from engine.settings import Alignment, Sampling

ROOT = Path(__file__).resolve().parents[1]


def tables():
    """The script as a module; its folder is on the path while it imports its neighbour, as when it is run."""
    spec = importlib.util.spec_from_file_location("bench_tables", ROOT / "bench" / "tables.py")
    module = importlib.util.module_from_spec(spec)
    sys.path.insert(0, str(ROOT / "bench"))
    try:
        spec.loader.exec_module(module)
    finally:
        sys.path.remove(str(ROOT / "bench"))
    return module


def test_making_the_tables_again_changes_nothing() -> None:
    results = {
        path: path.read_bytes()
        for path in [
            ROOT / "README.md",
            ROOT / "docs" / "results.md",
            *(ROOT / "bench" / "results").glob("*.md"),
        ]
    }
    tables().main()
    after = {path: path.read_bytes() for path in results}
    for path, content in results.items():
        path.write_bytes(content)  # a failing test must not mend what it found
    assert after == results


def test_results_of_another_prior_or_other_settings_are_told_apart() -> None:
    script = tables()
    file = json.loads((ROOT / "bench" / "results" / "evidence.json").read_text())
    prior = file["settings"]["prior"]
    assert script.out_of_date("evidence", file, "another").endswith(
        f"made with prior {prior}; another ships now."
    )
    how = json.loads(json.dumps(asdict(script.evidence.METHODS["DAG"])))
    other = how | {"alignment": how["alignment"] | {"scale": 7.0}}
    rows = {
        "DAG/photo": {"settings": how},
        "DAG/sketch": {"settings": other},
        "gone/photo": {"settings": how},
    }
    result = {"settings": {"prior": prior}, "rows": rows}
    assert script.out_of_date("evidence", result, prior).endswith(
        "than today's: DAG/sketch, gone/photo."
    )
    result["settings"]["methods"] = {"gone": "DAG"}  # of a task, as bench/downstream.py has it
    assert script.out_of_date("evidence", result, prior).endswith("than today's: DAG/sketch.")
    made = {
        "settings": {"prior": prior},
        "rows": {"DAG/photo": {"settings": how, "token_file": "a"}},
    }
    assert script.out_of_date("evidence", made, prior, {"photo": "a"}) == ""
    assert script.out_of_date("evidence", made, prior, {"photo": "b"}).endswith(
        "today's: DAG/photo."
    )
    made["rows"]["DAG/photo"]["plain"] = json.loads(
        json.dumps(asdict(script.evidence.METHODS["plain"]))
    )
    assert script.out_of_date("downstream", made, prior) == ""
    made["rows"]["DAG/photo"]["plain"]["sampling"]["cfg"] = 7.5
    assert script.out_of_date("downstream", made, prior).endswith("today's: DAG/photo.")
    sampled = {"settings": {"prior": prior, "sampling": asdict(Sampling())}, "rows": {"photo": {}}}
    assert script.out_of_date("styles", sampled, prior) == ""
    sampled["settings"]["sampling"]["cfg"] = 7.5
    assert "another sampling than today's" in script.out_of_date("styles", sampled, prior)
    assert script.out_of_date("cat_compute", sampled, prior) == ""
    for others in (
        {"rows": {"a": {"fid": 1.0}}},
        {"rows": [1]},
        {"prior": prior},
        {"settings": {"batch": 1}},
    ):
        assert script.out_of_date("evidence", others, prior) == ""
    assert "made with prior" in script.out_of_date("embedded_check", {"prior": "old"}, prior)
    cifar = {"rows": {"deepinversion": {"settings": {"iterations": 7}}}}
    assert script.out_of_date("cifar", cifar, prior) == ""
    longer = asdict(replace(Alignment(), scale=7.0))
    assert "another alignment" in script.out_of_date(
        "tune", {"settings": {"alignment": longer}}, prior
    )
    styles = {
        "settings": {"sampling": asdict(Sampling())},
        "rows": {"sketch": {"alignment": longer}},
    }
    assert "today's: sketch" in script.out_of_date("styles", styles, prior)


def test_a_table_is_filled_between_its_markers_and_nowhere_else() -> None:
    text = "a\n<!-- table:x -->\nold\n<!-- /table:x -->\nb <!-- table:y -->\n"
    assert tables().fill(text, "x", "| new |") == text.replace("old", "| new |")
    empty = text.replace("old\n", "")
    assert tables().fill(empty, "x", "| new |") == text.replace("old", "| new |")
    with pytest.raises(ValueError, match="0 tables 'z'"):
        tables().fill(text, "z", "| new |")
    with pytest.raises(ValueError, match="0 tables 'y'"):
        tables().fill(text.replace("<!-- /table:y -->", ""), "y", "| new |")


def cell(**changed: float) -> dict[str, float]:
    return {
        "images": 7,
        "judge_domain": 0.2,
        "judge_class": 0.5,
        "teacher_class": 0.25,
        "l_bn": 100.0,
    } | changed


def test_guidance_is_averaged_over_classes_and_seeds() -> None:
    seeds = {
        "0": {"dog": cell(), "cat": cell(judge_domain=0.6)},
        "1": {"dog": cell(), "cat": cell(l_bn=140.0)},
    }
    table = tables().guidance_table(
        {"rows": {"plain/sketch": {"seeds": seeds}, "DAG/photo": {"seeds": seeds}}}
    )
    assert "| classifier of | plain | DAG |" in table
    assert "| sketch | 0.30 / 0.50 / 110 | not measured |" in table
    assert "| mean | 0.30 / 0.50 / 110 | 0.30 / 0.50 / 110 |" in table
    assert "plain 28, DAG 28." in table


def test_tokens_are_counted_on_the_worst_classes_alone() -> None:
    recognised = {
        "cat": {"embedded:sketch": 9, "embedded:photo": 1},
        "dog": {"embedded:sketch": 1, "embedded:photo": 9},
    }
    worst = tables().worst_of({"recognised": recognised}, 1)
    assert worst == {"sketch": ["dog"], "photo": ["cat"]}
    plain = {"0": {"dog": cell(), "cat": cell(judge_class=0.75)}}
    tokens = {"0": {"dog": cell(judge_class=1.0), "cat": cell()}}
    rows = {f"{m}/{d}": {"seeds": s} for m, s in (("plain", plain), ("CAT", tokens)) for d in worst}
    table = tables().tokens_table({"rows": rows}, worst)
    assert "| sketch | dog | 0.25 / 0.50 | 0.25 / 1.00 | not measured | not measured |" in table
    assert "| photo | cat | 0.25 / 0.75 | 0.25 / 0.50 | not measured" in table
    assert "| mean |  | 0.25 / 0.62 | 0.25 / 0.75 |" in table
    assert "7 images a row" in table


def test_a_method_has_means_where_each_domain_was_measured() -> None:
    entry = {"value": 4.0, "low": 3.0, "high": 5.0}
    row = {"seeds": {}, "images": 9, "flops_per_image": 2e9}
    row["metrics"] = dict.fromkeys(("fid", "kid", "precision", "recall"), entry)
    rows = {
        "plain/photo": row,
        "plain/sketch": row,
        "both/photo": row,
        "both/sketch": {"seeds": {}},
    }
    table = tables().methods_table({"rows": rows}, ["plain", "both"])
    assert (
        "| plain | 4.0 (3.0 to 5.0) | 4.0 (3.0 to 5.0) | 4.0 | 4.000 | 4.00 | 4.00 | 2 | 9 |"
        in table
    )
    assert "| both | 4.0 (3.0 to 5.0) | not measured |  |  |  |  | 2 | 9 |" in table
    assert "none" not in tables().methods_table({"rows": rows}, ["plain", "none"])


def test_downstream_accuracies_are_in_percent_beside_the_classifier() -> None:
    def entry(mean: float, spread: float | None) -> dict:
        return {"images": 350, "accuracy": {"mean": mean, "spread": spread}}

    row = {
        "teacher": {"accuracy": 0.8},
        "rows": {"original": entry(0.5, 0.01), "folder": entry(0.45, None)},
    }
    result = {"rows": {"distill/photo": row, "prune/photo": {}}}
    table = tables().downstream_table(result, "distill")
    assert "| classifier of | images | classifier | original | ours |" in table
    assert "| photo | 350 | 80.0 | 50.0 ± 1.0 | 45.0 |" in table


def test_registers_are_listed_by_architecture() -> None:
    code = {"case": "merge", "architecture": 80, "registers": 48, "stack": 0, "local": 0}
    code |= {"loads": {"32": 1, "128": 2}, "stores": {"64": 1}}
    table = tables().code_table([code, {**code, "architecture": 90, "registers": 50, "local": 8}])
    assert "| merge | 48 | 50 | 8 | 128 | 64 |" in table
    assert "Not measured" in tables().code_table(None)


def test_a_budget_of_a_gpu_is_shown_by_phase_or_by_what_stopped_it() -> None:
    made = tables()
    assert made.gpu_memory_table(None).startswith("Not measured yet: `make gpu`")
    peaks = {"predicted_bytes": 2e9, "measured_bytes": 2.5e9, "error": -0.2}
    ran = {
        "phases": dict.fromkeys(("text", "sampling", "decode"), peaks)
        | {"guidance": {"predicted_bytes": 3e9, "out_of_memory": "OutOfMemoryError: no room"}},
        "step": {"plain_s": 0.1, "guided_s": 0.105, "ratio": 1.05},
    }
    memory = {
        "8GB, batch 4": {"generate": ran, "learn": {"refused": "8GB is too small"}},
        "6GB, batch 4": {"error": "RuntimeError: broken"},
        "paper, 8GB, batch 4": {"generate": ran},
        "errors": {"largest": 0.2},
    }
    table = made.gpu_memory_table({"device": "cuda", "memory": memory})
    peak = "2.00 / 2.50"
    row = f"| {peak} | {peak} | out of memory | {peak} | 0.100 | 0.105 | 1.050 |"
    assert f"| 8GB, batch 4 {row} refused | refused | refused |" in table
    assert f"| paper, 8GB, batch 4 {row}  |  |  |" in table
    assert "6GB" not in table
    assert "20.0%" in table
    assert "Not measured" in made.gpu_memory_table({"device": "cpu", "memory": memory})


def test_the_size_of_a_real_prior_is_shown_by_time_and_compute() -> None:
    ours = {"plain_ms": 32000.0, "time_ratio": 1.11, "flops_ratio": 1.05}
    rows = {
        "arch:sd-2.1-base": {
            "dtype": "float32",
            "ours": ours,
            "paper": {"time_ratio": 4.6, "flops_ratio": 4.2},
        }
    }
    where = {"device": "A CPU", "threads": 2, "versions": {"torch": "2.13.0"}}
    settings = {"classifier": "arch:resnet50", "images": 1}
    result = {"settings": settings, "environment": where, "rows": rows}
    table = tables().cost_table("sd_scale", {"sd_scale": result})
    assert "resnet50, 1 image at once, on A CPU with 2 threads, torch 2.13.0" in table
    assert "| sd-2.1-base | 32.0 | 1.11 | 4.60 | 1.05 | 4.20 |" in table


def test_what_has_no_result_yet_names_its_command() -> None:
    made = tables()
    for names, table in ((made.COSTS, made.cost_table), (made.STUDIES, made.study_table)):
        for name in names:
            assert table(name, {}).startswith(f"Not measured yet: `python bench/{name}.py`")
            assert (ROOT / "bench" / f"{name}.py").exists()


def test_a_variant_of_guidance_is_told_by_domain_and_by_means_over_those_it_has() -> None:
    def row(fid: float, share: float) -> dict:
        shares = {"judge_domain": share, "judge_class": 1.0, "teacher_class": 0.75, "l_bn": 400.4}
        interval = {"value": fid, "low": fid - 1, "high": fid + 2}
        return {
            "images": 56,
            "metrics": {"fid": interval, "recall": {"value": share / 2}},
            "shares": shares,
            "flops_per_image": 33.08e9,
        }

    rows = {
        "default/photo": row(10.0, 0.5),
        "default/art_painting": row(20.0, 0.75),
        "CFG 2/photo": row(8.0, 0.25),
    }
    table = tables().study_table("guidance_study", {"guidance_study": {"rows": rows}})
    assert "56 images of each variant and domain, 2 domains;" in table
    assert "about ± 1.5." in table
    assert "| variant | FID photo | FID art painting | FID | recall | judge's domain |" in table
    assert "| default | 10.0 | 20.0 | 15.0 | 0.31 | 0.62 | 1.00 | 0.75 | 400 | 33.1 |" in table
    assert "| CFG 2 | 8.0 |  | 8.0 | 0.12 | 0.25 |" in table


def test_students_of_cifar_are_told_beside_what_their_images_cost() -> None:
    def row(mean: float, spread: float | None, **cost: float) -> dict:
        facts = {"images": 500, "measured_images": 10000, "teacher": {"accuracy": 0.85}}
        facts |= {"distillation": {"epochs": 30}, "agreement": {"mean": 0.5}}
        return facts | {"accuracy": {"mean": mean, "spread": spread}} | cost

    rows = {"deepinversion": row(0.25, 0.012, flops_per_image=155e9, seconds_per_image=1.84)}
    rows |= {"noise": row(0.1, None), "original": row(0.4, 0.01)}
    result = {"rows": rows, "settings": {"seeds": 3, "iterations": 240}}
    result["environment"] = {"device": "cpu", "threads": 1}
    table = tables().study_table("cifar", {"cifar": result})
    assert (
        "500 images of each set, 3 students each, 30 passes; top-1 in percent on 10000 test images"
        in table
    )
    assert "the teacher has 85.0. 240 iterations of DeepInversion" in table
    assert "on cpu, 1 thread." in table
    lines = table.splitlines()
    assert lines[-3:] == [
        "| original | 40.0 ± 1.0 | 50.0 |  |  |",
        "| DeepInversion | 25.0 ± 1.2 | 50.0 | 155 | 1.8 |",
        "| noise | 10.0 | 50.0 |  |  |",
    ]


def test_throughput_is_told_by_steps() -> None:
    rates = {
        f"{method}/{steps}": 10.0 * steps
        for method in ("plain", "paper", "ours")
        for steps in (8, 30)
    }
    result = {"images": 28, "images_per_minute": rates | {"ours/8": 71.6}}
    result["guided_over_plain_step"] = {"paper": 3.456, "ours": 1.2}
    result["environment"] = {"device": "cpu", "threads": 2}
    table = tables().cost_table("throughput", {"throughput": result})
    assert "28 images at once, on cpu with 2 threads" in table
    assert (
        "| method | images a minute, 8 steps | images a minute, 30 steps | guided / plain step |"
        in table
    )
    assert "| plain prior | 80 | 300 | 1 |" in table
    assert "| paper's DAG | 80 | 300 | 3.46 |" in table
    assert "| ours | 72 | 300 | 1.20 |" in table


def test_predicted_peaks_stand_beside_measured_ones() -> None:
    row = {
        "prior": "embedded",
        "dtype": "float32",
        "decoder": "auto",
        "image_px": 32,
        "images": 4,
        "phase": "cat",
    }
    row |= {"checkpoint": False, "predicted_bytes": 9.5e6, "measured_bytes": 10e6, "error": -0.05}
    other = {**row, "images": 1, "decoder": "full", "phase": "text", "checkpoint": True}
    table = tables().memory_table({"device": "cpu", "largest_error": 0.05, "rows": [row, other]})
    assert (
        "| phase | embedded, float32, 4 images of 32 px | embedded, float32, 1 image of 32 px, full decoder |"
        in table
    )
    assert "| cat | 9.5 / 10.0 (-5.0%) |  |" in table
    assert "| text, checkpointed |  | 9.5 / 10.0 (-5.0%) |" in table
    assert "alive at once in tensors on cpu" in table


def test_a_token_is_told_by_its_compute_and_accuracies() -> None:
    def learned(forward: int, backward: int, judge: float) -> dict:
        counts = {"unet_forward": forward, "unet_backward": backward}
        return {"images": 32, "teacher_class": 0.5, "judge_class": judge, "learning": counts}

    plain = {"images": 32, "teacher_class": 0.25, "judge_class": 0.5}
    cells = {"plain/sketch/dog": plain, "plain/cartoon/cat": {**plain, "judge_class": 0.75}}
    cells |= {
        "published/sketch/dog": learned(9000, 500, 0.75),
        "published/cartoon/cat": learned(7000, 500, 0.75),
    }
    result = {
        "classes": {"sketch": ["dog"], "cartoon": ["cat"]},
        "settings": {"images_per_class": 32},
    }
    result["seconds"] = {
        "published/sketch/dog": 300.0,
        "published/cartoon/cat": 100.0,
        "ours/sketch": 30.0,
    }
    missing = tables().cat_compute_table({**result, "cells": cells})
    assert "| ours | not measured |" in missing
    cells |= {"ours/sketch/dog": learned(500, 150, 1.0), "ours/cartoon/cat": learned(300, 50, 0.5)}
    table = tables().cat_compute_table({**result, "cells": cells})
    assert "| plain | 0 | 0 |  |  | 0.25 | 0.62 |" in table
    assert "| published | 8000 | 500 | 200 | 1.0 | 0.50 | 0.75 |" in table
    assert "| ours | 400 | 100 | 15 | 15.0 | 0.50 | 0.75 |" in table
    assert "32 images of each class: dog (sketch), cat (cartoon)" in table
    for name, cell in cells.items():
        if "learning" in cell:
            cell["learning"] |= {
                "epochs": 5,
                "outcome": "recognised" if "cat" in name else "no better",
            }
    settings = {"images_per_class": 32, "schedules": {"published": {"epochs": 10}}}
    told = tables().cat_compute_table({**result, "settings": settings, "cells": cells})
    assert (
        "all of its 10 epochs would take 30.0 times as much as ours. Of our 2 tokens 1 were no better"
        in told
    )


def test_a_decoder_is_told_by_gradient_cost_and_images() -> None:
    way = {"mean_cosine": 0.876, "least_cosine": 0.5, "flops": 0.25, "time": 0.333}
    cells = {
        "photo": {"judge_domain": 0.5, "judge_class": 0.75},
        "sketch": {"judge_domain": 1.0, "judge_class": 0.25},
    }
    result = {
        "ways": {"narrow": way, "by area": way},
        "generated": {"narrow": cells, "no guidance": cells},
    }
    result["stable_diffusion_tflops"] = {"full VAE, 512 px": 7.5}
    table = tables().decoders_table(result)
    assert "| narrow | 0.88 (0.50) | 0.25 | 0.33 | 0.75 / 0.50 |" in table
    assert "| by area | 0.88 (0.50) | 0.25 | 0.33 |  |" in table
    assert "| no guidance |  |  |  | 0.75 / 0.50 |" in table
    assert "full VAE, 512 px 7.5" in table


def test_onnx_runtime_is_told_by_threads() -> None:
    part = {"torch": {"s": 0.1234, "ratio": 1.0}, "onnx": {"s": 0.1, "ratio": 0.81}}
    result = {"settings": {"batch": 28, "classifier": "embedded:cartoon"}}
    result["threads"] = {"1": {"gradient": part}, "2": {"gradient": part}}
    table = tables().onnx_runtime_table(result)
    assert "| torch ms, 1 thread | ONNX Runtime / torch, 1 thread | torch ms, 2 threads |" in table
    assert "| gradient | 123 | 0.81 | 123 | 0.81 |" in table
