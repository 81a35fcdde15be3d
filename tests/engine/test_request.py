"""A request is plain data: JSON both ways, and a mistake in one is named by its path."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from engine.errors import ConfigError
from engine.request import ClassifierSource, PriorCall, PriorSource, Request
from engine.settings import Alignment, Sampling
from engine.settings.inversion import DeepInversion, NaturalInversion, PlugInInversion
from engine.settings.methods import DDIS, Plain

TEACHER = ClassifierSource(source="checkpoint.pt", architecture="resnet8", labels=("dog", "horse"))
METHODS = [
    DDIS(),
    DDIS.paper(),
    DDIS(
        alignment=Alignment(scale=0.25), sampling=Sampling(steps=4, cfg=2), tokens="t.safetensors"
    ),
    Plain(sampling=Sampling(batch=3)),
    DeepInversion(iterations=7),
    PlugInInversion(zoom=0.25),
    NaturalInversion(),
]


@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.name)
def test_a_request_survives_json(method):
    request = Request(
        classifier=TEACHER,
        prior=PriorSource(source="folder", tiny_decoder="none"),
        method=method,
        student=ClassifierSource(source="embedded:photo"),
        classes=("horse",),
        images_per_class=3,
        seed=2**60,
        runtime="onnx",
    )
    assert Request.from_plain(json.loads(json.dumps(request.to_plain()))) == request


def test_what_is_missing_gets_its_default_and_whole_numbers_are_numbers():
    request = Request.from_plain(
        {
            "classifier": {"source": "embedded:photo"},
            "method": {"name": "plain", "sampling": {"cfg": 3}},
        }
    )
    assert request == Request(
        classifier=ClassifierSource(source="embedded:photo"),
        method=Plain(sampling=Sampling(cfg=3.0)),
    )
    assert isinstance(request.method.sampling.cfg, float)
    assert Request.from_plain({"method": "deepinversion"}).method == DeepInversion()


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"sed": 3}, r"sed is no setting, expected classifier, .*Did you mean 'seed'\?"),
        (
            {"method": {"alignment": {"scal": 1}}},
            r"method has no name, expected one of 'ddis', 'plain'",
        ),
        (
            {"method": {"name": "ddis", "alignment": {"scal": 1}}},
            r"method\.alignment\.scal is no setting.*Did you mean 'scale'\?",
        ),
        ({"method": ["ddis"]}, r"method\.name is \['ddis'\], expected one of 'ddis', 'plain'"),
        ({"method": {"name": ["ddis"]}}, r"method\.name is \['ddis'\], expected one of"),
        ({"method": "dis"}, r"method\.name is 'dis', expected one of .*Did you mean 'ddis'\?"),
        ({"seed": "3"}, r"seed is '3', expected a whole number"),
        ({"seed": True}, r"seed is True, expected a whole number"),
        ({"classes": "dog"}, r"classes is 'dog', expected a list"),
        ({"classes": ["dog", False]}, r"classes\[1\] is False, expected a text in quotes"),
        ({"dtype": "float64"}, r"dtype is 'float64', expected one of 'float32'"),
        (
            {"classifier": "embedded:photo"},
            r"classifier is 'embedded:photo', expected the settings of",
        ),
        ({"format": "ddis-request/9"}, r"format 'ddis-request/9', expected 'ddis-request/1'"),
        ({"images_per_class": 0}, r"images_per_class is 0, expected at least 1"),
        (
            {"method": {"name": "ddis", "sampling": {"steps": 0}}},
            r"method.sampling.steps is 0, expected at least 1",
        ),
    ],
)
def test_a_mistake_is_named_by_its_path(values, words):
    with pytest.raises(ConfigError, match=words):
        Request.from_plain(values)


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"seed": "3"}, "seed is '3', expected a whole number"),
        ({"images_per_class": True}, "images_per_class is True, expected a whole number"),
        ({"classifier": "embedded:photo"}, "classifier is 'embedded:photo', expected the settings"),
        ({"classes": "dog"}, "classes is 'dog', expected a list"),
        (
            {"method": DDIS(sampling=Sampling(cfg=True))},
            r"method\.sampling\.cfg is True, expected",
        ),
    ],
)
def test_python_s_mistakes_are_named_too(wrong, words):
    with pytest.raises(ConfigError, match=words):
        Request(**wrong)


def test_a_request_made_in_python_is_the_one_that_its_plain_values_make():
    request = Request(classes=["dog"], method="plain", prior=PriorSource(source=Path("prior")))
    assert request == Request(classes=("dog",), method=Plain(), prior=PriorSource(source="prior"))
    assert Request.from_plain(request.to_plain()) == request


def test_a_seed_outside_the_manifest_is_refused():
    with pytest.raises(ConfigError, match="seed is -1"):
        replace(Request(), seed=-1)


def test_arguments_of_the_prior_s_call_are_in_the_request() -> None:
    call = PriorCall(height=48)
    request = Request(prior=PriorSource(call=call))
    assert request.to_plain()["prior"]["call"]["height"] == 48
    assert Request.from_plain(request.to_plain()) == request
    assert call.given() == {"height": 48}
