"""The studies of guidance and of CIFAR-10 run, write what they say, and go on where they stopped."""

import json
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from reports.goals import read_goals

from engine.classifiers.cifar_resnet import CifarResNet
from engine.datasets.images import png_bytes, to_picture
from engine.runners.generate import generate
from engine.settings import Alignment, Sampling

Run = Callable[..., str]


@pytest.fixture
def run(bench_script, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """run("cifar", "--seeds", 1): what the script prints with these arguments."""

    def printed(script: str, *arguments: object) -> str:
        monkeypatch.setattr(sys, "argv", [f"{script}.py", *map(str, arguments)])
        bench_script(f"studies.{script}").main()
        return capsys.readouterr().out

    return printed


def test_the_goals_compare_todays_defaults_with_the_paper_in_the_study(
    bench_script: Callable[[str], ModuleType],
) -> None:
    study = bench_script("studies.guidance_study")
    (goal,) = [goal for goal in read_goals() if goal.file == "guidance_study"]
    (ours,) = goal.left
    assert study.VARIANTS[ours] == study.Method(Alignment(), sampling=Sampling())
    assert {study.VARIANTS[name].sampling for name in goal.right} == {Sampling.paper()}


@pytest.mark.slow
def test_variants_of_guidance_are_measured_once_each(
    tmp_path: Path,
    run: Run,
    bench_script: Callable[[str], ModuleType],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    study = bench_script("studies.guidance_study")
    short = {
        name: replace(study.VARIANTS[name], sampling=Sampling(steps=4))
        for name in ("base", "plain")
    }
    monkeypatch.setattr(study, "VARIANTS", short)
    monkeypatch.setattr(study, "METRICS", replace(study.METRICS, resamples=5, prd_clusters=5))
    out = tmp_path / "study.json"
    asked = (
        "guidance_study",
        "--domains",
        "photo",
        "--images",
        1,
        "--work",
        tmp_path,
        "--out",
        out,
    )
    run(*asked, "--variants", "base")
    printed = run(*asked, "--variants", "base", "plain")
    assert "plain/photo" in printed
    assert "base/photo" not in printed
    rows = json.loads(out.read_text())["rows"]
    assert list(rows) == ["base/photo", "plain/photo"]
    assert rows["plain/photo"]["settings"]["alignment"] is None
    for row in rows.values():
        assert row["images"] == row["shares"]["images"] == 7
        assert row["metrics"]["fid"]["low"] <= row["metrics"]["fid"]["high"]
    assert rows["base/photo"]["flops_per_image"] > rows["plain/photo"]["flops_per_image"]


def test_few_steps_are_measured_once(tmp_path: Path, run: Run) -> None:
    out, name = tmp_path / "few.json", "4 steps, 6 moves of 0.2"
    asked = ("few_steps", "--domains", "photo", "--images", 1, "--variants", name)
    asked += ("--work", tmp_path / "work", "--out", out)
    assert f"{name}/photo: class " in run(*asked)
    assert run(*asked) == ""
    result = json.loads(out.read_text())
    row = result["rows"][f"{name}/photo"]
    assert (row["settings"]["alignment"]["moves"], row["settings"]["sampling"]["steps"]) == (6, 4)
    assert row["shares"]["images"] == 7
    assert {"settings", "environment"} < result.keys()


@pytest.mark.slow
def test_an_ambiguous_name_is_measured_once_a_recipe(tmp_path: Path, run: Run) -> None:
    out = tmp_path / "ambiguity.json"
    asked = ("ambiguity", "--domains", "photo", "--recipes", "plain", "true word")
    asked += ("--images", 4, "--out", out)
    assert "plain/photo, seed 0: house dog " in run(*asked)
    assert run(*asked) == ""
    rows = json.loads(out.read_text())["rows"]
    assert rows["plain/photo"]["own_names"]["dog"][0]["modifier"] == 0  # it has no other meaning
    assert "own_names" not in rows["true word/photo"]
    true, plain = (rows[f"{name}/photo"]["names"] for name in ("true word", "plain"))
    assert true.keys() == plain.keys()
    assert len(plain) == 9
    assert {"animal", "blick"} <= plain.keys()
    seen = [values[0]["head"] for values in plain.values()]
    assert all(0 <= share <= 1 for share in seen)
    assert true["elephant house"][0]["cross_entropy"] != plain["elephant house"][0]["cross_entropy"]


def test_the_goal_of_few_steps_is_among_the_variants(
    bench_script: Callable[[str], ModuleType],
) -> None:
    study = bench_script("studies.few_steps")
    goals = [goal for goal in read_goals() if goal.file == "few_steps"]
    assert goals
    assert {name for goal in goals for name in (*goal.left, *goal.right)} <= study.VARIANTS.keys()
    assert set(study.SMOKE) <= study.VARIANTS.keys()
    assert study.VARIANTS["guided, 30 steps"] == study.Method(Alignment())
    (few,) = {name for goal in goals for name in goal.left}
    assert study.VARIANTS[few].alignment == Alignment.few_steps()


def test_classifiers_without_batch_norm_are_measured_once(
    tmp_path: Path,
    run: Run,
    bench_script: Callable[[str], ModuleType],
    data_folder: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    study = bench_script("studies.any_classifier")
    short = {
        name: replace(study.ROWS[name], sampling=Sampling(steps=4))
        for name in ("plain", "resnet, BatchNorm", "folded, file by channels", "convnext, file")
    }
    monkeypatch.setattr(study, "ROWS", short)
    monkeypatch.setattr(study, "METRICS", replace(study.METRICS, resamples=5, prd_clusters=5))
    out = tmp_path / "result.json"
    asked = ("any_classifier", "--domains", "photo", "--images", 1, "--data", data_folder)
    asked += ("--work", tmp_path / "work", "--out", out, "--rows", *short)
    printed = run(*asked)
    assert "folded, file by channels/photo: FID" in printed
    assert "convnext, file/photo: FID" in printed
    assert "FID" not in run(*asked)
    rows = json.loads(out.read_text())["rows"]
    assert rows.keys() == {f"{name}/photo" for name in short}
    assert all({"fid", "coverage"} <= row["metrics"].keys() for row in rows.values())
    assert "l_bn" not in rows["plain/photo"]["shares"]  # without statistics nobody knows it
    assert "l_bn" in rows["convnext, file/photo"]["shares"]
    assert len([*(tmp_path / "work").rglob("photo-folded.safetensors")]) == 1


@pytest.mark.slow
def test_autoencoders_of_two_shapes_are_measured_once(
    tmp_path: Path,
    run: Run,
    bench_script: Callable[[str], ModuleType],
    data_folder: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    study = bench_script("studies.autoencoders")
    monkeypatch.setattr(study, "PERCEPTION", replace(study.PERCEPTION, steps=1, batch=4))
    monkeypatch.setattr(study, "RESOLUTION", 16)
    out = tmp_path / "autoencoders.json"
    asked = ("autoencoders", "--data", data_folder, "--work", tmp_path / "work", "--out", out)
    asked += ("--minutes", 0.002)
    assert "16 channels, an eighth {" in run(*asked)
    assert run(*asked) == ""
    four, sixteen = json.loads(out.read_text())["rows"].values()
    assert all(row["updates"]["likeness"] > 0 for row in (four, sixteen))
    assert four["denoiser_flops"] > sixteen["denoiser_flops"]
    for found in four["domains"].values():
        lossy, real = found["real test images through the autoencoder"], found["real test images"]
        assert lossy["images"] == real["images"]
        assert lossy["fid"] > real["fid"]  # of networks that know nothing yet
    (done,) = (tmp_path / "work").glob("4-channels*/likeness/done")
    done.unlink()
    out.unlink()
    before = (done.parent / "state.pt").stat().st_mtime_ns
    run(*asked)
    assert (done.parent / "state.pt").stat().st_mtime_ns > before
    assert done.exists()


@pytest.fixture
def cifar_folder(tmp_path: Path) -> Path:
    """Data and models in one folder: a few images of noise, and a network that knows nothing."""
    labels = (
        "airplane",
        "automobile",
        "bird",
        "cat",
        "deer",
        "dog",
        "frog",
        "horse",
        "ship",
        "truck",
    )
    for part, number in (("train", 3), ("test", 2)):
        rows = [
            {
                "image": {"bytes": png_bytes(to_picture(torch.rand(3, 32, 32))), "path": None},
                "label": label,
            }
            for label in labels * number
        ]
        pq.write_table(pa.Table.from_pylist(rows), tmp_path / f"cifar10-{part}.parquet")
    network = CifarResNet(44, widths=(4, 4, 4))
    torch.save({"state_dict": network.state_dict()}, tmp_path / "resnet44-0123.th")
    return tmp_path


@pytest.mark.slow
def test_students_of_cifar_learn_from_each_set_once(
    tmp_path: Path,
    cifar_folder: Path,
    run: Run,
    bench_script: Callable[[str], ModuleType],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(bench_script("studies.cifar"), "STUDENT", "resnet8")
    out = tmp_path / "cifar.json"
    asked = (
        "cifar",
        "--images-per-class",
        1,
        "--iterations",
        16,
        "--seeds",
        1,
        "--data",
        cifar_folder,
    )
    asked += ("--models", cifar_folder, "--work", tmp_path / "work", "--out", out)
    run(*asked, "--methods", "deepinversion")
    printed = run(*asked, "--methods", "deepinversion", "plugin-inversion")
    assert "plugin-inversion" in printed
    assert "deepinversion" not in printed
    result = json.loads(out.read_text())
    assert list(result["rows"]) == ["original", "deepinversion", "noise", "plugin-inversion"]
    for name, row in result["rows"].items():
        assert (row["images"], row["measured_images"]) == (10, 20)
        assert ("flops_per_image" in row) == ("inversion" in name)
    assert result["rows"]["deepinversion"]["settings"]["iterations"] == 16
    assert (
        result["rows"]["plugin-inversion"]["settings"]["iterations"] == 1
    )  # of each of its stages
    small = Sampling(steps=2)
    monkeypatch.setattr(
        bench_script("studies.cifar"),
        "generate",
        lambda *args, **kwargs: generate(*args, **kwargs | {"sampling": small}),
    )
    with_prior = ("--methods", "--prior", "embedded", "--stream", 1, "--updates", 2)
    printed = run(*asked, *with_prior)
    assert "'stream'" in printed
    assert run(*asked, *with_prior) == ""
    rows = json.loads(out.read_text())["rows"]
    assert rows["ours"]["images"] == rows["plain"]["images"] == rows["stream"]["images"] == 10
    assert rows["all original"]["images"] == 30
    assert rows["ours"]["flops_per_image"] > rows["plain"]["flops_per_image"] > 0


def test_students_of_cifar_need_the_data(
    tmp_path: Path, run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        run("cifar", "--data", tmp_path)
    said = capsys.readouterr().err
    assert "there is no" in said
    assert "set DDIS_DATA, or give --data and --models" in said
