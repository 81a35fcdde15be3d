"""Tables of what things cost, from results by hand."""

from reports.cost_tables import (
    cat_compute_table,
    decoders_table,
    evaluator_table,
    gpu_memory_table,
    memory_table,
    onnx_runtime_table,
    sd_scale_table,
)
from reports.throughput_table import throughput_table


def test_a_budget_of_a_gpu_is_shown_by_phase_or_by_what_stopped_it() -> None:
    assert gpu_memory_table(None).startswith("Not measured yet: `make gpu`")
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
    table = gpu_memory_table({"device": "cuda", "memory": memory})
    peak = "2.00 / 2.50"
    row = f"| {peak} | {peak} | out of memory | {peak} | 0.100 | 0.105 | 1.050 |"
    assert f"| 8GB, batch 4 {row} refused | refused | refused |" in table
    assert f"| paper, 8GB, batch 4 {row}  |  |  |" in table
    assert "6GB" not in table
    assert "20.0%" in table
    assert "Not measured" in gpu_memory_table({"device": "cpu", "memory": memory})


def test_the_size_of_a_real_prior_is_shown_by_time_and_compute() -> None:
    ours = {"plain_ms": 32000.0, "time_ratio": 1.11, "flops_ratio": 1.05}
    rows = {
        "arch:sd-2.1-base": {
            "dtype": "float32",
            "ours": ours,
            "paper": {"time_ratio": 4.6, "flops_ratio": 4.2},
        },
        "arch:sdxl": {"dtype": "float32", "ours": ours | {"time_ratio": 1.04}},
    }
    where = {"device": "A CPU", "threads": 2, "versions": {"torch": "2.13.0"}}
    settings = {"classifier": "arch:resnet50", "images": 1}
    result = {"settings": settings, "environment": where, "rows": rows}
    table = sd_scale_table(result)
    assert "resnet50, 1 image at once, on A CPU with 2 threads, torch 2.13.0" in table
    assert "| sd-2.1-base | 32.0 | 1.11 | 4.60 | 1.05 | 4.20 |" in table
    assert "| sdxl | 32.0 | 1.04 | not measured | 1.05 | not measured |" in table


def test_throughput_is_told_by_steps() -> None:
    rates = {
        f"{method}/{steps}": 10.0 * steps
        for method in ("plain", "paper", "ours")
        for steps in (8, 30)
    }
    result = {"settings": {"images": 28}, "images_per_minute": rates | {"ours/8": 71.6}}
    result["guided_over_plain_step"] = {"paper": 3.456, "ours": 1.2}
    result["environment"] = {"device": "cpu", "threads": 2}
    table = throughput_table(result)
    assert "28 images at once, on cpu with 2 threads" in table
    assert (
        "| method | images a minute, 8 steps | images a minute, 30 steps | guided / plain step |"
        in table
    )
    assert "| plain prior | 80 | 300 | 1 |" in table
    assert "| paper's DAG | 80 | 300 | 3.46 |" in table
    assert "| ours | 72 | 300 | 1.20 |" in table
    assert "FID" not in table
    assert "networks in" not in table
    result["settings"] |= {"steps": [8, 30], "alignment": {"scale": 0.2}}
    result["ways"] = {"bfloat16": {"plain": 200.4, "ours": 100.2, "fast": 167}}
    row = {"images": 56, "metrics": {"fid": {"value": 9.24, "low": 8.0, "high": 10.96}}}
    result["quality"] = {"float32": {"art_painting": row}, "bfloat16": {"art_painting": row}}
    table = throughput_table(result)
    assert "Whole runs of 30 steps" in table
    assert "| bfloat16 | 200 | 100 | 167 | 2.00 | 1.20 |" in table
    assert "FID of 56 guided images of the same seeds, with a scale of 0.2" in table
    result["demo"] = {"seconds": 19.4, "peak_bytes": 7e8}
    assert "`ddis demo` takes 19 s, loading included, and at most 0.70 GB" in throughput_table(
        result
    )
    assert "| dtype | art painting |" in table
    assert "| bfloat16 | 9.2 (8.0 to 11.0) |" in table


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
    table = memory_table({"device": "cpu", "largest_error": 0.05, "rows": [row, other]})
    assert (
        "| phase | embedded, float32, 4 images of 32 px | embedded, float32, 1 image of 32 px, full decoder |"
        in table
    )
    assert "| cat | 9.5 / 10.0 (-5.0%) |  |" in table
    assert "| text, checkpointed |  | 9.5 / 10.0 (-5.0%) |" in table
    assert "alive at once in tensors on cpu" in table


def test_a_token_is_told_by_its_compute_and_accuracies() -> None:
    def learned(forward: int, backward: int, judge: float) -> dict:
        counts = {"denoiser_forward": forward, "denoiser_backward": backward}
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
    missing = cat_compute_table({**result, "cells": cells})
    assert "| ours | not measured |" in missing
    cells |= {"ours/sketch/dog": learned(500, 150, 1.0), "ours/cartoon/cat": learned(300, 50, 0.5)}
    table = cat_compute_table({**result, "cells": cells})
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
    told = cat_compute_table({**result, "settings": settings, "cells": cells})
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
    table = decoders_table(result)
    assert "| narrow | 0.88 (0.50) | 0.25 | 0.33 | 0.75 / 0.50 |" in table
    assert "| by area | 0.88 (0.50) | 0.25 | 0.33 |  |" in table
    assert "| no guidance |  |  |  | 0.75 / 0.50 |" in table
    assert "full VAE, 512 px 7.5" in table


def test_onnx_runtime_is_told_by_threads() -> None:
    part = {"torch": {"s": 0.1234, "ratio": 1.0}, "onnx": {"s": 0.1, "ratio": 0.81}}
    result = {"settings": {"batch": 28, "classifier": "embedded:cartoon"}}
    result["threads"] = {"1": {"gradient": part}, "2": {"gradient": part}}
    table = onnx_runtime_table(result)
    assert "| torch ms, 1 thread | ONNX Runtime / torch, 1 thread | torch ms, 2 threads |" in table
    assert "| gradient | 123 | 0.81 | 123 | 0.81 |" in table


def test_the_evaluator_shows_the_parts_that_were_run(cells) -> None:
    equal = {"values": {"fid": {"ours": 1.0, "library": 1.0, "relative_gap": 1e-12}}}
    stream = {"values": {"rows": 100, "fid_s": 1.0, "kid_s": 2.0}, "peak_bytes": 2**29, "width": 8}
    table = evaluator_table({"equal": equal, "stream": stream})
    assert cells(table, "FID, and KID of 10 subsets") == ["100", "8", "0.50", "3"]
    assert "precision, recall" not in table
