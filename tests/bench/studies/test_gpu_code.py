"""The Triton kernels compile for four architectures without a GPU; what comes out spills nothing and loads vectors."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

STUDIES = Path(__file__).resolve().parents[3] / "bench" / "studies"


@pytest.fixture(scope="module")
def codes() -> list[dict]:
    pytest.importorskip("triton")
    done = subprocess.run(
        [sys.executable, STUDIES, "gpu_code", "--json", "--few"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.slow
def test_every_kernel_on_every_architecture(codes):
    assert {code["architecture"] for code in codes} == {80, 86, 89, 90}
    assert {code["case"].split()[0] for code in codes} == {
        "forward",
        "backward",
        "grouped",
        "alignment",
        "merge",
    }


@pytest.mark.slow
def test_nothing_spills(codes):
    assert [code for code in codes if code["stack"] or code["local"]] == []


@pytest.mark.slow
def test_large_maps_move_in_128_bit_words(codes):
    for code in codes:
        if "S=3136" in code["case"]:
            assert max(map(int, code["loads"])) == 128, code
            if "measure" not in code["case"]:
                assert max(map(int, code["stores"])) == 128, code


def test_a_network_compiles_few_kernels():
    """The launcher's own code says what it would compile: a tile more for some map would show here."""
    pytest.importorskip("triton")
    done = subprocess.run(
        [sys.executable, STUDIES, "gpu_code", "--count"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    counts = json.loads(done.stdout)
    assert {name.split(",")[0] for name in counts} == {"resnet18", "resnet50", "vgg16_bn"}
    assert max(counts.values()) <= 12, counts
    assert min(counts.values()) >= 3, counts


def test_x_is_loaded_at_one_place_only(codes):
    """All loads of 128 bits in a forward kernel are those of one tile of x: one read, whatever the loop count."""
    for code in codes:
        if (
            code["case"].startswith("forward")
            and "contiguous" in code["case"]
            and "S=3136" in code["case"]
        ):
            assert code["loads"]["128"] * 128 == code["tile_bits_per_thread"], code
