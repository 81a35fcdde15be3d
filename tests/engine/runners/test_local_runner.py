"""A request carried out in this process: what it reports, how it stops, and that its record makes the same bytes."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from diffusers import StableDiffusionPipeline

from engine.classifiers import load_classifier
from engine.datasets.run_record import read_run
from engine.errors import ConfigError, ModelError, OutputError
from engine.evaluation.select import select
from engine.events import (
    Cancelled,
    Event,
    Events,
    Finished,
    ImageMade,
    MemoryRanOut,
    Started,
    Stepped,
)
from engine.memory.budget import MemoryWarning
from engine.methods.models import Given, Models
from engine.priors import Prior, load_prior
from engine.request import ClassifierSource, Execution, PriorCall, PriorSource, Request
from engine.runners.generate import generate, generate_again
from engine.runners.local import LocalRunner
from engine.settings import Alignment, Sampling, Selection
from engine.settings.inversion import DeepInversion
from engine.settings.methods import DDIS, Plain
from engine.tokens.files import save_tokens
from engine.tokens.table import TokenTable, encoder_widths, placeholders
from engine.types import ImageKey

LABELS = ("dog", "elephant", "giraffe", "guitar", "horse", "house", "person")
SHORT = Sampling(steps=3, batch=4)
CPU = Execution(device="cpu")


@pytest.fixture
def request_(classifier_folder: Path, small_prior_folder: Path) -> Request:
    """Two images of three classes, in two groups."""
    return Request(
        classifier=ClassifierSource(source=str(classifier_folder)),
        prior=PriorSource(source=str(small_prior_folder)),
        method=DDIS(sampling=SHORT),
        classes=("dog", "horse", "person"),
        images_per_class=2,
        seed=3,
    )


def made(request: Request, out: Path | None, watch: Callable[[Event], object] = id) -> int:
    return sum(1 for _ in LocalRunner(out, CPU, Events(watch)).run(request))


def token_file(request: Request, path: Path) -> str:
    """Tokens of two classes for the models of a request."""
    prior = load_prior(request.prior.source, device="cpu")
    table = TokenTable(
        rows=torch.randn(2, sum(encoder_widths(prior).values())),
        encoders=encoder_widths(prior),
        classes=(0, 4),
        labels=("dog", "horse"),
        names=placeholders(["dog", "horse"]),
        prior=prior.fingerprint,
        classifier=load_classifier(request.classifier.source, device="cpu").fingerprint,
    )
    save_tokens(table, path)
    return str(path)


METHODS = {
    "guided": DDIS(alignment=Alignment(scale=0.3), sampling=SHORT),
    "with tokens": DDIS(sampling=SHORT, tokens="tokens"),
    "plain": Plain(sampling=SHORT),
    "inverted": DeepInversion(batch=4, iterations=2),
}


@pytest.mark.parametrize("name", METHODS)
def test_a_run_json_makes_the_same_bytes_in_another_folder(
    tmp_path: Path, contents, request_: Request, name: str
) -> None:
    method = METHODS[name]
    if name == "with tokens":
        method = replace(method, tokens=token_file(request_, tmp_path / "t.safetensors"))
    prior = PriorSource() if name == "inverted" else request_.prior
    assert made(replace(request_, method=method, prior=prior), tmp_path / "first") == 6
    again = generate_again(tmp_path / "first" / "run.json", tmp_path / "again", CPU)
    assert len(list(again)) == 6
    assert contents(tmp_path / "again") == contents(tmp_path / "first")
    assert read_run(tmp_path / "first").made["request"]["method"]["name"] == method.name


def test_a_record_of_other_models_is_refused_by_name(tmp_path: Path, request_: Request) -> None:
    made(request_, tmp_path / "first")
    file = tmp_path / "first" / "run.json"
    record = json.loads(file.read_text())
    record["models"]["prior"]["fingerprint"] = "0" * 16
    del record["sha256"]
    file.write_text(json.dumps(record))
    with pytest.raises(
        ModelError, match=rf'prior\.fingerprint is "{"0" * 16}" there and "\w+" here. Expected the'
    ):
        generate_again(file, tmp_path / "again", CPU)
    assert not (tmp_path / "again").exists()


def test_the_classes_of_a_record_are_named_whatever_the_request_left_open(
    tmp_path: Path, request_: Request
) -> None:
    made(replace(request_, classes=None, images_per_class=1), tmp_path / "set")
    record = json.loads((tmp_path / "set" / "run.json").read_text())
    assert tuple(record["request"]["classes"]) == LABELS
    assert made(replace(request_, classes=LABELS, images_per_class=1), tmp_path / "set") == 0


def test_objects_are_named_and_cannot_be_loaded_elsewhere(
    tmp_path: Path, contents, request_: Request
) -> None:
    prior = load_prior(request_.prior.source, device="cpu")
    classifier = load_classifier(request_.classifier.source, device="cpu")
    asked = {"classes": request_.classes, "images_per_class": 2, "seed": 3, "sampling": SHORT}
    assert len(list(generate(classifier, prior, **asked, out=tmp_path / "objects"))) == 6
    assert made(request_, tmp_path / "objects") == 0  # the same models, so the same run
    with pytest.raises(
        ConfigError,
        match=r"the classifier of the request is 'object:.*classifier', expected a source that can",
    ):
        generate_again(tmp_path / "objects", tmp_path / "again", CPU)
    request = Request.from_plain(
        json.loads((tmp_path / "objects" / "run.json").read_text())["request"]
    )
    given = Given(classifier=classifier, prior=prior)
    assert len(list(LocalRunner(tmp_path / "again", CPU, given=given).run(request))) == 6
    assert contents(tmp_path / "again") == contents(tmp_path / "objects")


def test_what_a_request_says_of_its_prior_holds_for_a_pipeline_that_is_handed_over(
    tiny_prior_folders: dict[str, Path],
) -> None:
    """Else its record would say what the images are not."""
    pipe = StableDiffusionPipeline.from_pretrained(
        tiny_prior_folders["epsilon"], safety_checker=None
    )
    source = PriorSource(source="object:pipe", call=PriorCall(height=48, width=48), quantise="int8")
    request = Request(classifier=ClassifierSource(source="embedded:photo"), prior=source)
    prior = Models(request, CPU, Given(prior=pipe)).prior
    assert prior.image_size[0] == 48
    assert prior.quantise == "int8"


def test_a_request_is_asked_alone(request_: Request) -> None:
    assert len(list(generate(replace(request_, images_per_class=1)))) == 3
    with pytest.raises(
        ConfigError, match=r"seed is given together with a request, .*replace\(request, se"
    ):
        generate(request_, seed=4)
    with pytest.raises(ConfigError, match="prior is given together with a request"):
        generate(request_, "other")


def test_what_a_run_reports(tmp_path: Path, request_: Request) -> None:
    seen: list[Event] = []
    made(request_, tmp_path / "set", seen.append)
    assert seen[0] == Started("images", 6, 0)
    images = [event for event in seen if isinstance(event, ImageMade)]
    assert {ImageKey(e.class_index, e.index) for e in images} == {
        ImageKey(number, index) for number in (0, 4, 6) for index in range(2)
    }
    assert {event.label for event in images} == {"dog", "horse", "person"}
    steps = [event for event in seen if isinstance(event, Stepped)]
    assert [(step.index, step.total) for step in steps] == [(n, 3) for n in range(3)] * 2
    assert sum(step.images / step.total for step in steps) == pytest.approx(6)
    assert {step.loss for step in steps} == {None}
    assert isinstance(seen[-1], Finished)
    assert seen[-1].peak_bytes > 0
    assert json.loads(seen[-1].to_json())["event"] == "finished"


def test_a_resumed_run_counts_what_it_need_not_make(tmp_path: Path, request_: Request) -> None:
    """A group is made again whole where its images depend on each other."""
    made(request_, tmp_path / "set")
    (tmp_path / "set" / "images" / "horse" / "00000.png").unlink()
    seen: list[Event] = []
    assert made(request_, tmp_path / "set", seen.append) == 1
    assert seen[0] == Started("images", 6, 3)
    assert sum(isinstance(event, ImageMade) for event in seen) == 1
    seen.clear()
    assert made(request_, tmp_path / "set", seen.append) == 0
    assert [event.kind for event in seen] == ["started", "finished"]


def test_losses_are_read_for_those_who_ask(request_: Request) -> None:
    seen: list[Event] = []
    for image in LocalRunner(None, CPU, Events(seen.append, losses=True)).run(request_):
        curve = image.curve
    losses = [event.loss for event in seen if isinstance(event, Stepped)]
    assert losses[-1] is None  # the last step is never guided
    assert losses[-3:-1] == pytest.approx(curve)


@pytest.mark.parametrize("kind", [Stepped, ImageMade])
def test_a_cancelled_run_is_resumed_to_the_same_bytes(
    tmp_path: Path, contents, request_: Request, kind: type[Event]
) -> None:
    made(request_, tmp_path / "whole")
    left = iter(range(100))
    stop = {Stepped: 4, ImageMade: 2}[kind]

    def watch(event: Event) -> None:
        if isinstance(event, kind) and next(left) == stop:
            events.cancel()

    events = Events(watch)
    with pytest.raises(Cancelled, match="call the same again to resume where it stopped"):
        list(LocalRunner(tmp_path / "cut", CPU, events).run(request_))
    kept = len(list((tmp_path / "cut" / "images").rglob("*.png")))
    assert 0 < kept < 6
    assert not (tmp_path / "cut" / "manifest.parquet").exists()
    assert made(request_, tmp_path / "cut") == 6 - kept
    assert contents(tmp_path / "cut") == contents(tmp_path / "whole")


def test_memory_that_runs_out_is_reported(request_: Request, small_prior: Prior) -> None:
    def refuse(_: torch.nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        if len(inputs[0]) > 2 * 2:  # both branches of CFG
            raise torch.OutOfMemoryError("CUDA out of memory.")

    seen: list[Event] = []
    runner = LocalRunner(None, CPU, Events(seen.append), Given(prior=small_prior))
    hook = small_prior.pipe.unet.conv_in.register_forward_pre_hook(refuse)
    try:
        with pytest.warns(MemoryWarning):
            next(runner.run(replace(request_, method=Plain(sampling=SHORT))))
    finally:
        hook.remove()
    assert [event for event in seen if isinstance(event, MemoryRanOut)] == [
        MemoryRanOut("sampling", 3, 1)
    ]


def test_a_selection_keeps_where_its_images_come_from(tmp_path: Path, request_: Request) -> None:
    made(request_, tmp_path / "all")
    select(tmp_path / "all", tmp_path / "half", Selection(by="l_bn"))
    select(tmp_path / "half", tmp_path / "less", Selection(by="energy"))
    record = json.loads((tmp_path / "less" / "run.json").read_text())
    assert record["selection"]["by"] == "energy"
    assert record["selected_from"]["selection"]["by"] == "l_bn"
    origin = read_run(tmp_path / "all").made
    assert record["selected_from"]["selected_from"] == origin
    with pytest.raises(OutputError, match="holds images selected from another folder"):
        LocalRunner(tmp_path / "half", CPU).run(request_)
    with pytest.raises(ConfigError, match="record of a selection"):
        generate_again(tmp_path / "half", tmp_path / "again", CPU)
