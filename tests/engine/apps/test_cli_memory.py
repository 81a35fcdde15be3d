"""`ddis plan` and `ddis profile`."""

import json

import pytest

from engine.apps.cli import main


def test_a_plan_is_one_json_object(capsys: pytest.CaptureFixture[str]) -> None:
    """Stable Diffusion 2.1 within 4 GB at batch 1: the claim that a card is bought for."""
    arguments = [
        "--prior",
        "arch:sd-2.1-base",
        "--classifier",
        "arch:resnet50",
        "--dtype",
        "float16",
        "--batch",
        "1",
    ]
    words = ["plan", *arguments, "--learn-tokens", "--memory", "6GB", "--json"]
    assert main(words) == 0
    planned = json.loads(capsys.readouterr().out)
    assert (planned["image_px"], planned["dtype"], planned["decoder"]) == (512, "float16", "tiny")
    assert max(peak for phase, peak in planned["peak_bytes"].items() if phase != "cat") <= 4e9
    assert planned["smallest_bytes"] <= 4e9
    assert planned["peak_bytes"]["cat"] <= 6e9
    assert planned["micro_batch"]["cat"] == 1


def test_a_batch_of_a_plan_has_no_more_images_than_the_run(
    capsys: pytest.CaptureFixture[str],
) -> None:
    words = ["plan", "--classifier", "embedded:cartoon", "--memory", "1GB", "--device", "cpu"]
    assert main([*words, "--classes", "dog", "horse", "--images-per-class", "3"]) == 0
    assert "batches of 6 images of 64 px within 1.00GB" in capsys.readouterr().out
    assert main([*words, "--batch", "4", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["batch"] == 4


def test_a_plan_is_a_table_for_people(capsys: pytest.CaptureFixture[str]) -> None:
    assert (
        main(["plan", "--classifier", "embedded:cartoon", "--memory", "1GB", "--batch", "2"]) == 0
    )
    shown = " ".join(capsys.readouterr().out.split())
    for words in (
        "predicted peak",
        "guidance",
        "largest --batch that no phase splits",
        "smallest budget",
        "(5 % of it stays free)",
        "tiny decoder at 64 px",
        "prompts become contexts",
        "--device cpu plans for this machine",
        "weights by precision",
        "text_encoder",
        "--learn-tokens plans learning tokens too",
    ):
        assert words in shown
    assert "the gradient back to the contexts" not in shown  # of a phase that takes long to count
    assert "generate with --tiny-decoder" not in shown  # the embedded prior has its own


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("sd-1.5 --cfg 1", ["denoiser, without CFG", "generate with --tiny-decoder auto too"]),
        (
            "sd-1.5 --tiny-decoder none --prior.call.height 512 --prior.call.width 768",
            ["denoiser, with CFG", "1 image of 512 x 768 px (height x width) within 24.00GB"],
        ),
        ("sana-1.6b", ["generate with --tiny-decoder FILE, which docs/priors.md names, too"]),
    ],
)
def test_a_plan_for_an_architecture_says_what_it_assumes(
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    words: str,
    said: list[str],
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    asked = ["--classifier", "arch:resnet18", "--memory", "24GB", "--dtype", "float16"]
    assert main(["plan", *asked, "--batch", "1", "--prior", *f"arch:{words}".split()]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert all(one in shown for one in said)
    assert ("generate with --tiny-decoder" in shown) == ("none" not in words)
    if "none" not in words:  # it stands right behind the first table
        assert shown.index("generate with --tiny-decoder") < shown.index("planned for a GPU")


def test_a_plan_in_four_bits_says_what_they_save(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--classifier", "embedded:cartoon", "--memory", "1GB", "--batch", "2"]
    assert main(["plan", *arguments, "--prior.quantise", "nf4", "--device", "cpu", "--json"]) == 0
    planned = json.loads(capsys.readouterr().out)
    unet = planned["weights_bytes"]["unet"]
    assert planned["quantise"] == "nf4"
    assert unet["nf4"] < unet["int8"] < unet["none"]
    assert planned["weights_bytes"]["vae"].keys() == {"none"}


@pytest.mark.parametrize(
    ("budget", "words"),
    [("12 parsecs", "expected a number with one of the units"), ("1MB", "too small for prior")],
)
def test_a_budget_that_makes_no_sense_is_explained(
    capsys: pytest.CaptureFixture[str], budget: str, words: str
) -> None:
    assert (
        main(["plan", "--classifier", "embedded:cartoon", "--memory", budget, "--batch", "2"]) == 2
    )
    assert words in capsys.readouterr().err


def test_a_profile_is_a_table_and_a_ratio(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--classifier", "embedded:cartoon", "--device", "cpu", "--images", "1"]
    assert main(["profile", *arguments]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "host gaps" in shown
    assert "times the FLOPs" in shown
    assert main(["profile", *arguments, "--method", "plain"]) == 2
    assert "--method is no option of ddis profile" in capsys.readouterr().err
