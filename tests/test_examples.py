"""Each script of examples/ runs on the models that ship, here with fewer images and steps, and says what it did.

Of the job for Kubernetes, the command and what must be so of its cluster are checked.
"""

import runpy
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from engine.apps.cli import main

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"
Main = Callable[..., None]


def main_of(name: str) -> Main:
    """The function `main` of a script."""
    found: dict[str, Any] = runpy.run_path(str(EXAMPLES / name))
    return found["main"]


def test_every_script_has_a_test_and_is_named_in_the_list() -> None:
    tested = Path(__file__).read_text()
    listed = (EXAMPLES / "README.md").read_text()
    for script in EXAMPLES.glob("*.py"):
        assert f'main_of("{script.name}")' in tested
        assert f"]({script.name})" in listed
        assert f"python examples/{script.name}\n" in listed


def test_own_progress_stops_and_resumes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main_of("own_progress.py")(tmp_path, images_per_class=1, steps=2)
    said = capsys.readouterr().out
    assert "step 1 of 2: guidance descends" in said
    assert "image 3 is on the disk" in said
    assert "image 4 is on the disk" not in said
    assert "call the same again to resume" in said
    assert "3 images were missing; all are in" in said
    assert len(list(tmp_path.rglob("images/*/*.png"))) == 7


def test_the_pipeline_is_guided_and_given_back(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main_of("guided_pipeline.py")(tmp_path, number=2, steps=4)
    said = capsys.readouterr().out
    assert "plain: the classifier of sketches is" in said
    assert "4 images in" in said
    assert (tmp_path / "plain-1.png").read_bytes() != (tmp_path / "guided-1.png").read_bytes()


@pytest.mark.slow
def test_a_student_is_taught(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main_of("distil_student.py")(tmp_path, images_per_class=2, steps=2, epochs=1)
    said = capsys.readouterr().out
    assert "taught on folder: agrees with the teacher on" in said
    assert "taught on noise: agrees with the teacher on" in said
    assert (tmp_path / "students" / "report.json").is_file()


def test_the_job_for_kubernetes_asks_for_what_its_command_needs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    job = yaml.safe_load((EXAMPLES / "rayjob.yaml").read_text())
    shell, option, commands = shlex.split(job["spec"]["entrypoint"])
    assert (shell, option) == ("sh", "-c")
    words, finishing = map(shlex.split, commands.split("&&"))
    config = tmp_path / "photo.yaml"
    config.write_text("request: {classifier: {source: embedded:photo}}")
    words = [str(config) if word == "/shared/photo.yaml" else word for word in words]
    assert main([*words[1:], "--print-config"]) == 0
    asked = yaml.safe_load(capsys.readouterr().out)["execution"]["cluster"]
    assert finishing == ["ddis", "finish", words[words.index("--out") + 1]]
    cluster = job["spec"]["rayClusterSpec"]
    (group,) = cluster["workerGroupSpecs"]
    assert asked["ray"] == "auto"
    assert asked["workers"] == group["replicas"] == group["maxReplicas"]
    (worker,) = group["template"]["spec"]["containers"]
    limits = worker["resources"]["limits"]
    assert asked["gpus_per_worker"] == limits["nvidia.com/gpu"]
    assert asked["cpus_per_worker"] == int(limits["cpu"])
    assert cluster["authOptions"] == {"mode": "token"}
    for part in (cluster["headGroupSpec"], group):
        (container,) = part["template"]["spec"]["containers"]
        (mount,) = container["volumeMounts"]
        assert words[words.index("--out") + 1].startswith(f"{mount['mountPath']}/")
        assert mount["name"] in [volume["name"] for volume in part["template"]["spec"]["volumes"]]
        assert {"name": "RAY_USAGE_STATS_ENABLED", "value": "0"} in container["env"]
