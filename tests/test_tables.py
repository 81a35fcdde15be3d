"""The README's tables are those that the committed results make."""

import importlib.util
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


def tables():
    spec = importlib.util.spec_from_file_location("bench_tables", ROOT / "bench" / "tables.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_making_the_tables_again_changes_nothing() -> None:
    results = {
        path: path.read_bytes() for path in [ROOT / "README.md", *(ROOT / "bench" / "results").glob("*.md")]
    }
    tables().main()
    after = {path: path.read_bytes() for path in results}
    for path, content in results.items():
        path.write_bytes(content)  # a failing test must not mend what it found
    assert after == results


def test_a_table_is_filled_between_its_markers_and_nowhere_else() -> None:
    text = "a\n<!-- table:x -->\nold\n<!-- /table:x -->\nb <!-- table:y -->\n"
    assert tables().fill(text, "x", "| new |") == text.replace("old", "| new |")
    with pytest.raises(ValueError, match="no table 'z'"):
        tables().fill(text, "z", "| new |")


def test_guidance_is_averaged_over_seeds() -> None:
    cell = {"images": 7, "judge_domain": 0.2, "judge_class": 0.5, "teacher_class": 0.5, "l_bn": 100.0}
    result = {
        "settings": {"methods": {"plain": None, "ours": {}}},
        "cells": {"plain/sketch/0": cell, "plain/sketch/1": {**cell, "judge_domain": 0.4}},
    }
    table = tables().guidance_table(result)
    assert "| sketch | 0.30 / 0.50 / 100 | not measured |" in table
    assert "| mean | 0.30 / 0.50 / 100 | not measured |" in table
    assert "seeds: plain 2, ours 0" in table


def test_tokens_are_shown_beside_the_plain_prompt() -> None:
    cell = {"images": 7, "judge_class": 0.5, "teacher_class": 0.25}
    result = {
        "classes": {"sketch": ["dog", "house"], "photo": ["dog"]},
        "cells": {
            "plain/sketch/1": cell,
            "CAT/sketch/1": {**cell, "judge_class": 0.75},
            "plain/photo/1": {**cell, "teacher_class": 0.75},
            "CAT/photo/1": cell,
        },
    }
    table = tables().tokens_table(result)
    assert "| sketch | dog, house | 0.25 / 0.50 | 0.25 / 0.75 |" in table
    assert "| mean |  | 0.50 / 0.50 | 0.25 / 0.62 |" in table


def test_registers_are_listed_by_architecture() -> None:
    code = {"case": "merge", "architecture": 80, "registers": 48, "stack": 0, "local": 0}
    code |= {"loads": {"32": 1, "128": 2}, "stores": {"64": 1}}
    table = tables().code_table([code, {**code, "architecture": 90, "registers": 50, "local": 8}])
    assert "| merge | 48 | 50 | 8 | 128 | 64 |" in table
    assert "Not measured" in tables().code_table(None)


def test_what_a_gpu_reaches_is_beside_its_copy_or_not_measured() -> None:
    assert "Not measured" in tables().gpu_table({})
    table = tables().gpu_table({"copy_gb_per_s": 2000.0, "share_of_copy": {"channel_moments": 0.93}})
    assert "2000 GB/s" in table
    assert "| channel_moments | 0.93 |" in table
