"""Pages about files of `ddis evaluate --out` and `ddis tune --out`."""

import html
import json
import re
from pathlib import Path
from typing import Any

import pytest

from engine.apps.cli import main
from engine.errors import ConfigError
from engine.report import write_report
from engine.runners.tune import ScaleTrial, Tuned
from engine.settings import Alignment, Sampling


def evaluation(folder: str = "out/<i>set</i>", **changes: Any) -> dict[str, Any]:
    return {
        "folder": folder,
        "reference": "judge",
        "domain": "photo",
        "images_domain": None,
        "reference_domain": "photo",
        "features": "judge-1",
        "classifier": None,
        "images": 56,
        "reference_images": 357,
        "level": 0.95,
        "resampled": {"fid": "images", "recall": "reference", "prd_recall": None},
        "settings": {"neighbours": 5},
        "metrics": {
            "fid": {"value": 12.25, "low": 11.5, "high": 13.0},
            "recall": {"value": 0.5, "low": 0.25, "high": 0.75},
            "prd_recall": {"value": 0.625, "low": None, "high": None},
            "set_l_bn": None,
        },
        "missing": {"set_l_bn": "needs `classifier`"},
        "warnings": ["only 56 images"],
    } | changes


def written(path: Path, report: object) -> Path:
    path.write_text(json.dumps(report))
    return path


def tuned(**changes: Any) -> dict[str, Any]:
    trials = [
        ScaleTrial(
            scale=scale,
            images=7,
            l_bn=l_bn,
            gap=0.0,
            cross_entropy=1.0,
            recognised=0.5,
            agreement=0.25,
        )
        for scale, l_bn in ((0.2, 3.0), (0.4, 1.5))
    ]
    return Tuned(Alignment(scale=0.4), Sampling(), tuple(trials)).to_json() | changes


def test_an_evaluation_has_values_intervals_and_what_is_missing(tmp_path: Path) -> None:
    file = write_report([written(tmp_path / "e.json", evaluation())])
    assert file == tmp_path / "e.html"
    text = file.read_text()
    for words in (
        "56 images, compared with 357 of judge (photo)",
        "95 % from",
        "<td>FID</td>",
        ">12.2<",
        ">11.5<",
        "lower",
        "L_BN of all images",
        "needs `classifier`",
        "only 56 images",
        "&lt;i&gt;set",
        "<td>settings.neighbours</td>",
    ):
        assert words in text, words
    assert text.count("<svg") == 1  # the shares
    assert "<i>" not in text
    assert "http" not in text.replace("http://www.w3.org", "")


def test_several_evaluations_are_compared_first(tmp_path: Path) -> None:
    files = [
        written(tmp_path / "a.json", evaluation("a")),
        written(
            tmp_path / "b.json",
            evaluation(
                "b",
                reference=None,
                metrics={"l_bn": {"value": 31.0, "low": None, "high": None}},
                missing={},
            ),
        ),
    ]
    text = write_report(files, tmp_path / "both.html").read_text()
    table = text[text.index("2 evaluations") : text.index("<section>")]
    assert "(11.5 to 13)" in table
    assert ">b<" in table
    rows = re.findall(r"<tr><td>(.*?)</td>(.*?)</tr>", table)
    assert [name for name, _ in rows] == ["FID", "recall", "PRD recall", "L_BN of single images"]
    assert [re.findall(r'<td class="value">([\d.]*)', cells) for _, cells in rows] == [
        ["12.2", ""],
        ["0.5", ""],
        ["0.625", ""],
        ["", "31"],
    ]
    assert "without a reference" in text
    assert text.count("<svg") == 1


def test_a_tuning_names_the_scale_and_how_to_go_on(tmp_path: Path) -> None:
    text = write_report([written(tmp_path / "t.json", tuned())]).read_text()
    assert "Of 2 scales of guidance, 0.4 has the least score" in text
    assert "ddis generate ... --alignment.scale 0.4<" in text
    assert text.count("<svg") == 5
    assert text.count('class="chosen"') == 1
    trials = [trial | {"l_bn": None, "gap": None} for trial in tuned()["trials"]]
    text = write_report([written(tmp_path / "t.json", tuned(trials=trials))]).read_text()
    assert text.count("<svg") == 3  # a classifier without statistics has no L_BN
    text = write_report([written(tmp_path / "t.json", tuned(preset="paper"))]).read_text()
    assert "ddis generate ... --preset paper --alignment.scale 0.4<" in text


def test_a_tuning_of_prompts_names_the_one_found(tmp_path: Path) -> None:
    facts = {"images": 7, "l_bn": 2.0, "cross_entropy": 1.0, "recognised": 0.5, "agreement": 0.25}
    styles = ("{a} {class}", "a sketch of {a} {class}")
    prompts = [facts | {"prompt": prompt, "score": 1.7} for prompt in styles]
    report = tuned(prompt=styles[1], prompts=prompts)
    text = write_report([written(tmp_path / "t.json", report)]).read_text()
    found = html.unescape(text)
    assert "ddis generate ... --prompt 'a sketch of {a} {class}' --alignment.scale 0.4<" in found
    assert text.count('class="chosen"') == 2
    report.pop("prompts")  # as version 0.1 wrote it
    assert "<table" in write_report([written(tmp_path / "t.json", report)]).read_text()


@pytest.mark.parametrize("content", [b"[1, 2]", b"no JSON", b'{"metrics": {}}', b"{}"])
def test_another_file_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "x.json").write_bytes(content)
    with pytest.raises(
        ConfigError, match=r"x\.json is no report \(.*expected a file of `ddis eval"
    ):
        write_report([tmp_path / "x.json"])


def test_the_command_takes_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = written(tmp_path / "e.json", evaluation())
    assert main(["report", str(file), "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"report": str(tmp_path / "e.html")}
