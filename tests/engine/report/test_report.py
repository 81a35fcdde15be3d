"""Pages about data sets and comparisons: what they say is so, they need nothing else, and nothing in them is run."""

import base64
import html
import io
import json
import math
import re
from collections.abc import Mapping
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from types import MappingProxyType

import numpy as np
import pytest
import torch
from PIL import Image

from engine.apps.cli import main
from engine.datasets.dataset import open_dataset
from engine.datasets.run_record import RunRecord
from engine.errors import ConfigError, OutputError
from engine.report import REPORT, charts, write_report
from engine.report.overview import OF_EACH, closing_line, settings_rows
from engine.report.page import page
from engine.report.pictures import embedded, first_of_each, near_duplicates
from engine.report.reading import dataset_overview
from engine.types import ImageKey, Sample

LABELS = {0: "dog", 1: "mail bag", 2: "<b>horse</b>"}


def make_set(
    folder: Path,
    of_each: int = 4,
    px: int = 12,
    wrong: int = 1,
    measured: Mapping[str, object] = MappingProxyType({"seconds": 3.5}),
) -> Path:
    """Noise, of which the first `wrong` of each class but 'dog' are seen as dogs; the last two dogs are one picture."""
    rng = torch.Generator().manual_seed(0)
    pictures = torch.rand(of_each, len(LABELS), 3, px, px, generator=rng)
    pictures[-1, 0] = pictures[-2, 0]
    with open_dataset(folder, {"seed": 7}, LABELS) as writer:
        for index in range(of_each):
            for number, label in LABELS.items():
                guess = 0 if index < wrong else number
                logits = torch.zeros(3)
                logits[guess] = 1.0 + index
                writer.add(
                    Sample(
                        key=ImageKey(number, index),
                        label=label,
                        seed=7,
                        prompt=f"a {label}",
                        token="",
                        image=pictures[index, number],
                        logits=logits,
                        l_bn=math.nan if index == 0 else 10.0 + index,
                        confidence=logits.softmax(0)[number].item(),
                        group="",
                    )
                )
        writer.finish(measured)
    return folder


class Reader(HTMLParser):
    """What a page refers to, the pictures that it holds, and their places in its tiles."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.sources: list[str] = []
        self.tags: list[str] = []
        self.places: list[int] = []
        self.pictures: list[str] = []
        self._inside = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        named = dict(attrs)
        self._inside = named.get("id") or ""
        self.places += [int(named["data-picture"] or "")] if "data-picture" in named else []
        self.sources += [named[name] or "" for name in ("src", "href") if named.get(name)]

    def handle_data(self, data: str) -> None:
        if self._inside == "pictures":
            self.pictures += data.split()


def test_a_page_says_what_is_in_the_folder(tmp_path: Path) -> None:
    folder = make_set(tmp_path / "set")
    facts = dataset_overview(folder)
    assert [(one.label, one.images, one.recognised) for one in facts.classes] == [
        ("dog", 4, 1.0),
        ("mail bag", 4, 0.75),
        ("<b>horse</b>", 4, 0.75),
    ]
    assert facts.recognised == pytest.approx(10 / 12)
    assert facts.classes[1].confused_with == "dog"
    assert facts.classes[0].confused_with == ""
    assert facts.classes[1].l_bn == pytest.approx(12)  # of those that have one
    assert facts.confusion[("mail bag", "dog")] == 1
    assert facts.duplicates == 1
    assert (facts.near_duplicates, facts.near) == (0, ())  # the twins are counted once


def test_the_most_and_the_least_confident_have_no_image_in_common(tmp_path: Path) -> None:
    few = dataset_overview(make_set(tmp_path / "few"))
    ((_, shown),) = few.by_confidence()  # one list holds them all
    falling = sorted((one.confidence for one in few.images), reverse=True)
    assert [one.confidence for one in shown] == falling
    more = dataset_overview(make_set(tmp_path / "more", 6))
    (_, most), (_, least) = more.by_confidence()
    assert (len(most), len(least)) == (OF_EACH, 6)
    assert not {one.path for one in most} & {one.path for one in least}
    assert max(one.confidence for one in least) <= min(one.confidence for one in most)
    assert least[0].confidence == min(one.confidence for one in more.images)
    many = dataset_overview(make_set(tmp_path / "many", 20))
    assert [len(images) for _, images in many.by_confidence()] == [OF_EACH, OF_EACH]


def test_of_too_many_classes_for_a_matrix_the_most_confused_are_listed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = make_set(tmp_path / "set", wrong=3)
    confused = dataset_overview(folder).most_confused()
    assert confused == [("mail bag", "dog", 3, 0.75), ("<b>horse</b>", "dog", 3, 0.75)]
    assert "Most confused" not in write_report([folder]).read_text()
    monkeypatch.setattr(charts, "MOST_CELLS", 2)
    text = write_report([folder]).read_text()
    assert "A matrix of 3 classes would be too small" in text
    assert '<td class="long">mail bag</td><td class="long">dog</td>' in text
    assert "Confusion matrix" not in text
    right = make_set(tmp_path / "right", wrong=0)
    assert "Most confused" not in write_report([right]).read_text()  # there is no mistake to list


def test_a_page_needs_nothing_else_and_is_the_same_each_time(tmp_path: Path) -> None:
    folder = make_set(tmp_path / "set")
    file = write_report([folder])
    assert file == folder / REPORT
    text = file.read_text()
    found = Reader(text)
    assert found.sources == []
    held = [one.picture for one in dataset_overview(folder).images]
    assert sorted(found.pictures) == sorted({*held})  # each once, though tiles repeat them
    assert len(found.places) == 2 * len(held)
    assert [found.pictures[place] for place in found.places[len(held) :]] == held
    for uri in found.pictures:
        kind, content = uri.split(",")
        assert kind == "data:image/webp;base64"
        assert Image.open(io.BytesIO(base64.b64decode(content))).size == (12, 12)
    assert "b" not in found.tags  # a label is text
    assert "http" not in re.sub(r"http://www\.w3\.org/\S+", "", text)
    assert found.tags.count("svg") == 4
    assert ".sheet button[hidden] { display: none; }" in text  # else the filters hide nothing
    for words in (
        "12 images of 3 classes",
        "83.3 %",
        "mail bag",
        "<td>seed</td>",
        "seconds",
        "3.5",
    ):
        assert words in text
    assert write_report([folder]).read_text() == text


def test_what_guidance_descended_is_a_curve(tmp_path: Path) -> None:
    curve = {"images": 12, "steps": [1, 2, 5], "mean": [3.0, 2.0, 1.5], "spread": [0.1, 0.5, 2.0]}
    folder = make_set(tmp_path / "set", measured={"seconds": 3.5, "descended": curve})
    text = write_report([folder]).read_text()
    assert Reader(text).tags.count("svg") == 5
    assert "mean of 12 images, ± one standard deviation" in text
    assert "descended.mean" not in text  # no numbers where there is a chart
    svg = charts.over_steps(curve, "objective")
    assert svg != charts.over_steps(curve | {"spread": [0.0, 0.0, 0.0]}, "objective")


def test_several_sets_are_compared_and_a_large_one_is_not_held_whole(tmp_path: Path) -> None:
    sets = [make_set(tmp_path / name, 20, wrong=wrong) for name, wrong in (("a", 0), ("b", 15))]
    text = write_report(sets, tmp_path / "both.html", images=6).read_text()
    assert "2 data sets" in text
    assert text.count("of 60 images;") == 2
    pictures = dataset_overview(sets[0], 6)
    held = [one for one in pictures.images if one.picture]
    extremes = {one.path for _, images in pictures.by_confidence() for one in images}
    assert extremes <= {one.path for one in held}
    assert len(held) < 40


def test_a_comparison_has_its_rows_and_warnings(tmp_path: Path) -> None:
    folder = tmp_path / "compared"
    folder.mkdir()
    summary = {"mean": 0.5, "spread": 0.1, "values": [0.4, 0.6]}
    row = {"images": 12, "accuracy": None, "agreement": summary, "kl": summary}
    report = {
        "task": "distill",
        "measured_on": "the test images",
        "measured_images": 9,
        "rows": {"original": row, "folder": row},
        "warnings": ["2 seeds: the spread says little."],
        "classifier": {"name": "net"},
    }
    (folder / "report.json").write_text(json.dumps(report))
    text = write_report([folder]).read_text()
    for words in (
        "Distill",
        "original",
        "50.0 %",
        "KL to the teacher",
        "2 seeds",
        "classifier.name",
    ):
        assert words in text
    assert Reader(text).tags.count("svg") == 2  # accuracy was not measured
    (folder / "report.json").write_text("[]")
    with pytest.raises(ConfigError, match=r"is no report of a comparison .* expected one of"):
        write_report([folder])


def test_what_is_no_folder_of_ours_is_refused(tmp_path: Path) -> None:
    with pytest.raises(
        ConfigError, match="is nothing that a report is about, expected a folder that"
    ):
        write_report([tmp_path])
    with pytest.raises(ConfigError, match="a report of 2 folders came without out, expected one"):
        write_report([tmp_path, tmp_path])


def test_classes_that_fail_are_named_with_what_may_help(tmp_path: Path) -> None:
    good, bad = (
        dataset_overview(make_set(tmp_path / name, wrong=wrong))
        for name, wrong in (("a", 0), ("b", 4))
    )
    assert closing_line(good) == "the classifier recognises 100% of the images"
    said = "the classifier recognises 33% of the images; lowest: mail bag 0%, <b>horse</b> 0%"
    assert closing_line(replace(bad, record=None)) == said
    made = RunRecord(made={"prior": {"name": "embedded"}}, labels={}, versions={}, measured={})
    worst = replace(bad.classes[1], images=8)
    one = replace(bad, folder="my set", classes=(*good.classes[:2], worst), record=made)
    assert closing_line(one) == (
        "the classifier recognises 33% of the images; lowest: mail bag 0%. Tokens in place of these names may help: "
        "ddis learn-tokens --config 'my set/run.json' --preset instead --classes 'mail bag' --out tokens.safetensors"
    )
    assert "Tokens" not in closing_line(replace(one, record=None))
    few = replace(one, classes=(*good.classes[:2], replace(worst, images=7)))
    assert closing_line(few).endswith("lowest: mail bag 0%")  # so few may fail by chance
    doctor = ". `ddis doctor` checks whether the classifier is read as it was trained"
    larger = "; a larger prior (`--prior`) or names that it knows (`--labels`) may help"
    # Of three, two: it is not a matter of single names.
    assert closing_line(replace(bad, record=made)) == f"{said}{doctor}{larger}"
    learned = replace(made, made={**made.made, "tokens": "a fingerprint"})
    assert closing_line(replace(one, record=learned)).endswith(f"mail bag 0%{doctor}{larger}")
    inverted = replace(made, made={"classifier": {"name": "net"}})
    assert closing_line(replace(bad, record=inverted)) == (
        f"{said}{doctor}, and a method with a prior (`--method ddis`) may do better"
    )


def test_pictures_of_many_details_come_smaller_or_in_a_lower_quality() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (160, 160, 3), dtype=np.uint8)
    picture = Image.fromarray(noise)
    whole = len(embedded(picture))
    assert whole > 20_000
    assert 12_000 < len(embedded(picture, whole - 1)) < whole
    assert len(embedded(picture, 5_000)) <= 5_000
    assert embedded(picture, whole) == embedded(picture)
    assert picture.size == (160, 160)
    plain = Image.new("RGB", (160, 160), "teal")
    assert embedded(plain, 5_000) == embedded(plain)


@pytest.mark.parametrize("at_once", [2, 512])
def test_pictures_that_look_alike_are_pairs_of_one_class(
    at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("engine.report.pictures.AT_ONCE", at_once)
    assert first_of_each([b"a", b"b", b"a", b"a"]) == [0, 1]
    hashes = [0b1111, 0b0111, 0b1111 << 30, 0b1101]
    assert near_duplicates(hashes, [0, 0, 0, 0], 9) == (3, [(0, 1), (0, 3), (1, 3)])
    assert near_duplicates(hashes, [0, 0, 0, 0], 2) == (3, [(0, 1), (0, 3)])
    assert near_duplicates(hashes, [0, 1, 0, 0], 9) == (1, [(0, 3)])


def test_charts_take_any_label_and_any_numbers() -> None:
    labels = ["x_$1^$", "a \"b\" 'c' & <d>", "犬"]
    shares = charts.bars(dict.fromkeys(labels, 0.5), "recognised")
    cells = charts.matrix({(labels[0], labels[1]): 3}, labels)
    for svg in (shares, cells):
        assert all(html.escape(label, quote=False) in svg for label in labels)
    long = charts.bars({"x" * 27: 0.5, "y" * 26: 0.5}, "recognised")
    assert f">{'x' * 25}…<" in long
    assert "y" * 26 in long
    assert charts.histogram([math.nan], "x") == ""
    assert "<svg" in charts.histogram([1.0, 1.0 - 2**-53], "x")
    assert "lowest 40 of 60" in charts.bars(
        {str(number): 0.1 for number in range(60)}, "recognised"
    )
    assert charts.matrix({}, [str(number) for number in range(31)]) == ""


def test_a_picture_that_is_damaged_is_named(tmp_path: Path) -> None:
    folder = make_set(tmp_path / "set")
    victim = next((folder / "images").rglob("*.png"))
    victim.write_bytes(b"no picture")
    with pytest.raises(
        OutputError, match=rf"{victim.name} cannot be read as a picture .* expected"
    ):
        write_report([folder])
    with pytest.raises(ConfigError, match="s3://bucket/set is a URL, expected a folder: copy"):
        write_report(["s3://bucket/set"])


def test_settings_are_lines() -> None:
    made = {"a": {"b": 0.25, "c": None}, "labels": [str(number) for number in range(14)]}
    assert settings_rows(made) == [
        ("a.b", "0.25"),
        ("labels", "0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11 and 2 more"),
    ]
    assert "<html" in page([])


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = make_set(tmp_path / "set")
    assert main(["report", str(folder), "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"report": str(folder / REPORT)}
