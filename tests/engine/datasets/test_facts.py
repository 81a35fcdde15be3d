"""What images depend on, from records of this version and of version 0.1."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from engine.datasets.dataset import open_dataset
from engine.datasets.run_record import read_run, write_run
from engine.errors import ConfigError, OutputError
from engine.facts import facts_of, request_of, runs_of, with_names_of
from engine.request import ClassifierSource, PriorSource, Request
from engine.settings import Alignment, Sampling
from engine.settings.inversion import DeepInversion
from engine.settings.methods import DDIS, Plain
from engine.settings.plain import to_plain

CLASSIFIER = {"name": "embedded:photo", "fingerprint": "c1", "dtype": "torch.float32"}
PRIOR = {"name": "embedded", "fingerprint": "p1", "dtype": "torch.float32", "tiny": None}
GUIDED = Request(
    classifier=ClassifierSource(source="embedded:photo"),
    prior=PriorSource(source="embedded"),
    classes=("dog", "house"),
    images_per_class=3,
    seed=4,
)
COMMON_0_1 = {
    "classifier": CLASSIFIER,
    "classes": ["dog", "house"],
    "images_per_class": 3,
    "seed": 4,
    "labels": {"0": "dog", "5": "house"},
}
DRAWN_0_1 = COMMON_0_1 | {
    "prior": PRIOR,
    "tokens": None,
    "alignment": to_plain(Alignment()),
    "sampling": to_plain(Sampling()),
    "runtime": "torch",
}
PAIRS = {
    "ddis": (GUIDED, DRAWN_0_1, ("prior", "tokens")),
    "plain": (
        replace(GUIDED, method=Plain(sampling=Sampling(cfg=7.5))),
        DRAWN_0_1 | {"alignment": None, "sampling": to_plain(Sampling(cfg=7.5))},
        ("prior", "tokens"),
    ),
    "deepinversion": (
        replace(GUIDED, method=DeepInversion(iterations=9)),
        COMMON_0_1 | {"student": None, "method": to_plain(DeepInversion(iterations=9))},
        ("student",),
    ),
}
"""A request, how version 0.1 wrote it down, and the models beside the classifier."""


def made(request: Request, old: dict, others: tuple[str, ...]) -> dict:
    """What is written down now of the run of a record of version 0.1."""
    models = {name: old[name] for name in ("classifier", *others)}
    return json.loads(json.dumps({"request": request.to_plain(), "models": models}))


@pytest.mark.parametrize("name", PAIRS)
def test_both_versions_tell_the_same_facts_and_the_same_request(name: str) -> None:
    request, old, others = PAIRS[name]
    now = made(request, old, others)
    assert facts_of(now) == facts_of(old)
    again, models = request_of(old, "run.json")
    if name == "deepinversion":
        again = replace(again, prior=request.prior)
    assert again == request
    assert models == request_of(now, "run.json")[1] == now["models"]


def test_a_setting_that_came_since_has_its_default() -> None:
    """Records that were written before it had a name are of the same run."""
    request, old, others = PAIRS["ddis"]
    for record in (now := made(request, old, others), old):
        early = json.loads(json.dumps(record))
        settings = early["request"]["method"] if "request" in early else early
        del settings["alignment"]["class_weight"]
        assert facts_of(early) == facts_of(now)


def test_tokens_count_by_their_fingerprint_and_not_by_their_file() -> None:
    def facts(file: str, fingerprint: str) -> dict:
        method = DDIS(tokens=file)
        models = {"classifier": CLASSIFIER, "prior": PRIOR, "tokens": fingerprint}
        return facts_of({"request": replace(GUIDED, method=method).to_plain(), "models": models})

    assert facts("a.safetensors", "t1") == facts("b.safetensors", "t1")
    assert facts("a.safetensors", "t1") != facts("a.safetensors", "t2")
    assert facts("a.safetensors", "t1") == facts_of(DRAWN_0_1 | {"tokens": "t1"})


def test_runs_are_found_behind_selections_and_unions() -> None:
    request, old, others = PAIRS["ddis"]
    now = made(request, old, others)
    nested = {"selected_from": {"together": [old, {"selected_from": now, "selection": {}}]}}
    assert runs_of(facts_of(nested)) == [facts_of(old), facts_of(now)]


@pytest.mark.parametrize(
    ("record", "words"),
    [
        ({"selected_from": DRAWN_0_1}, "record of a selection or of several runs, expected that"),
        ({"together": [DRAWN_0_1]}, "record of a selection or of several runs, expected that"),
        (
            DRAWN_0_1 | {"tokens": "t1"},
            "names its tokens by the fingerprint t1 alone, expected their file: generate with",
        ),
        ({"classifier": CLASSIFIER, "seed": 1}, "does not tell method, expected a whole request"),
        (
            DRAWN_0_1 | {"alignment": {"scal": 1}},
            r"method\.alignment\.scal is no setting.*Did you mean 'scale'",
        ),
    ],
)
def test_a_record_that_is_no_single_request_says_what_to_do(record: dict, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        request_of(record, "run.json")


def test_the_same_model_under_another_name_is_no_difference() -> None:
    there = {"classifier": CLASSIFIER, "student": None}
    moved = {"classifier": CLASSIFIER | {"name": "elsewhere"}, "student": None}
    other = {"classifier": CLASSIFIER | {"name": "elsewhere", "fingerprint": "c2"}}
    assert with_names_of(there, moved) == there
    assert with_names_of(there, other) == other


def test_a_folder_of_version_0_1_is_read_and_resumed(tmp_path: Path) -> None:
    request, old, others = PAIRS["ddis"]
    folder = tmp_path / "set"
    labels = {0: "dog", 5: "house"}
    now = made(request, old, others)
    open_dataset(folder, now, labels).close()
    (folder / "images" / "dog").mkdir(parents=True)
    (folder / "manifest.parquet").write_bytes(b"")  # as if an image were there
    record = {"format": "ddis-dataset/1", "config": old, "versions": {}, "measured": {}}
    (folder / "run.json").write_text(json.dumps(record))
    assert read_run(folder).facts == facts_of(now)
    assert read_run(folder).labels == {"0": "dog", "5": "house"}
    changed = made(replace(request, seed=5), old, others)
    with pytest.raises(OutputError, match=r"other settings: seed is 4 there and 5 here\."):
        open_dataset(folder, changed, labels)
    sharper = replace(request, method=DDIS(sampling=Sampling(cfg=6)))
    with pytest.raises(OutputError, match=r"method\.sampling\.cfg is 4\.0 there and 6\.0 here"):
        open_dataset(folder, made(sharper, old, others), labels)


def test_a_record_of_another_version_is_refused(tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text('{"format": "ddis-run/9"}')
    with pytest.raises(
        OutputError, match="a record of format 'ddis-run/9', expected one of format"
    ):
        read_run(tmp_path)
    (tmp_path / "run.json").write_text("[1]")
    with pytest.raises(OutputError, match="is no record, expected one of format"):
        read_run(tmp_path)


def test_a_record_that_is_not_there_is_one_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(
        OutputError, match=r"cannot read .*run\.json: No such file .*check the path"
    ):
        read_run(tmp_path)


def test_a_flipped_bit_of_a_record_is_found(tmp_path: Path) -> None:
    write_run(tmp_path, {"request": {"seed": 12}, "models": {}}, {"0": "dog"}, {"seconds": 3.25})
    path, expected = tmp_path / "run.json", read_run(tmp_path)
    whole = path.read_bytes()
    name = whole.index(b"sha256")  # without it, a record is one of an earlier version
    for place in {*range(len(whole))} - {*range(name, name + 6)}:
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 2]) + whole[place + 1 :])
        try:
            assert read_run(tmp_path) == expected, f"byte {place} of {len(whole)}"
        except OutputError as error:
            assert "run.json is " in str(error)  # noqa: PT017  # most are errors, not all
