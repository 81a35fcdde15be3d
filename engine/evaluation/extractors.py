"""Networks whose features are compared: the embedded judge, any classifier, or Inception through torch-fidelity."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.error import URLError

import torch
from torch import Tensor, nn

from engine.classifiers import load_classifier
from engine.classifiers.base import Classifier
from engine.classifiers.checkpoints import read_weights
from engine.embedded.judge import load_judge
from engine.errors import ConfigError, MissingExtraError, ModelError, brief
from engine.networks.frozen import default_device, fingerprint

JUDGE = "judge"
INCEPTION = "inception"
CLASSIFIER = "classifier:"
ACCEPTED = "'judge', 'classifier:<source>' (as `classifier` takes) or 'inception'"


@dataclass(frozen=True, kw_only=True, eq=False)
class Extractor:
    """A frozen network. name tells its features from others'; width: F, classes: K.

    run: images (N, 3, H, W) in [0, 1], any size -> features (N, F) and logits (N, K), float32 on the CPU.
    """

    name: str
    width: int
    classes: int
    run: Callable[[Tensor], tuple[Tensor, Tensor]]

    def __call__(self, images: Tensor) -> tuple[Tensor, Tensor]:
        with torch.no_grad():
            features, logits = self.run(images)
        return features.float().cpu(), logits.float().cpu()


def load_extractor(
    features: str = JUDGE,
    device: str | torch.device | None = None,
    *,
    weights: Path | None = None,
    architecture: str | None = None,
    labels: list[str] | None = None,
) -> Extractor:
    """The network that `features` names: 'judge', 'classifier:<source of load_classifier>' or 'inception'.

    weights: a local file of Inception's weights, for machines without network. architecture, labels: what
    `load_classifier` takes. Raises ConfigError for an unknown name or an architecture that belongs to none, ModelError
    or MissingExtraError where it cannot be loaded.
    """
    where = default_device(device)
    _refuse_unused(features, weights, architecture, labels)
    if features == JUDGE:
        return judge_extractor(where)
    if features == INCEPTION:
        return inception_extractor(weights, where)
    if features.startswith(CLASSIFIER):
        source = features.removeprefix(CLASSIFIER)
        return classifier_extractor(
            load_classifier(source, architecture=architecture, labels=labels, device=where)
        )
    raise ConfigError(f"features are {features!r}, expected {ACCEPTED}: choose one of these.")


def _refuse_unused(
    features: str, weights: Path | None, architecture: str | None, labels: list[str] | None
) -> None:
    """Raise ConfigError for what belongs to other features."""
    of_classifier = features.startswith(CLASSIFIER)
    for name, value, fits, owner in (
        ("architecture", architecture, of_classifier, f"'{CLASSIFIER}<checkpoint file>'"),
        ("labels", labels, of_classifier, f"'{CLASSIFIER}<source>'"),
        ("inception_weights", weights, features == INCEPTION, f"{INCEPTION!r}"),
    ):
        if value is not None and not fits:
            shown = str(value) if isinstance(value, Path) else value
            raise ConfigError(
                f"{name} is {shown!r} with features {features!r}, expected none: it belongs to {owner}. Leave it out, "
                "or choose these features."
            )


def judge_extractor(device: torch.device) -> Extractor:
    """The embedded judge: the offline default, which guidance never sees."""
    judge = load_judge()
    network = judge.network.to(device)

    def run(images: Tensor) -> tuple[Tensor, Tensor]:
        features = judge.features(images.to(device))
        return features, network.class_logits(features)

    name = f"{JUDGE}-{fingerprint([network])}"
    return Extractor(name=name, width=judge.reference.shape[1], classes=len(judge.classes), run=run)


def classifier_extractor(classifier: Classifier) -> Extractor:
    """A classifier: what its last linear layer reads. Raises ModelError where its logits come from no such layer."""
    heads = [
        layer
        for layer in classifier.network.modules()
        if isinstance(layer, nn.Linear) and layer.out_features == len(classifier.labels)
    ]
    read: dict[str, Any] = {}

    def record(layer: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        read.update(layer=layer, features=inputs[0].flatten(1))

    def run(images: Tensor) -> tuple[Tensor, Tensor]:
        hooks = [head.register_forward_pre_hook(record) for head in heads]
        try:
            logits = classifier.logits(images.to(classifier.device))
            return read["features"], logits
        finally:
            read.clear()
            for hook in hooks:
                hook.remove()

    name = f"classifier-{classifier.fingerprint}"
    probe = torch.zeros(1, 3, classifier.input_px, classifier.input_px)
    try:
        with torch.no_grad():
            features, logits = run(probe)
    except KeyError as error:
        raise ModelError(
            f"classifier {classifier.name!r} has no linear layer that gives its {len(classifier.labels)} logits, "
            "expected one, whose input is taken as the features: choose another network for `features`."
        ) from error
    return Extractor(name=name, width=features.shape[1], classes=logits.shape[1], run=run)


def inception_extractor(weights: Path | None, device: torch.device) -> Extractor:
    """Inception-v3 as FID was defined on it (TensorFlow's weights of 2015), 2048 features, by torch-fidelity.

    weights: a local copy of its file; None downloads it once. The file is read as tensors only before the library,
    which would unpickle anything, sees it. IS uses the logits without bias, as the library does.
    """
    module = _inception_module()
    path = weights or _downloaded(module.URL_INCEPTION_V3)
    read_weights(path)
    try:
        network = module.FeatureExtractorInceptionV3(
            "inception-v3-compat", ["2048", "logits_unbiased"], str(path)
        ).to(device)
    except (RuntimeError, KeyError) as error:
        raise ModelError(
            f"{path} does not fit Inception-v3 ({brief(error)}), expected torch-fidelity's weights: fetch "
            f"{module.URL_INCEPTION_V3}."
        ) from error

    def run(images: Tensor) -> tuple[Tensor, Tensor]:
        pixels = images.to(device).clamp(0, 1).mul(255).round().to(torch.uint8)
        features, logits = network(pixels)
        return features, logits

    return Extractor(
        name=f"{INCEPTION}-{fingerprint([network])}", width=2048, classes=1008, run=run
    )


def _inception_module() -> Any:
    try:
        from torch_fidelity import feature_extractor_inceptionv3
    # RuntimeError: a torchvision for CUDA next to a CPU torch.
    except (ImportError, RuntimeError) as error:
        raise MissingExtraError(
            f"torch_fidelity cannot be imported ({brief(error)}), expected the packages of the extra 'inception': "
            "install them with `pip install 'ddis[inception]'` on a machine with a CUDA torch, or use "
            "`features` 'judge' or 'classifier:<source>'."
        ) from error
    return feature_extractor_inceptionv3


def _downloaded(url: str) -> Path:
    """The file of that address in torch's hub folder, fetched if it is not there. Its name holds its checksum."""
    path = Path(torch.hub.get_dir()) / "checkpoints" / url.rsplit("/", 1)[1]
    if path.is_file():
        return path
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.hub.download_url_to_file(url, str(path), path.stem.rsplit("-", 1)[1], progress=False)
    except (URLError, OSError, RuntimeError) as error:
        raise ModelError(
            f"Inception's weights cannot be fetched ({brief(error)}), expected a network or a local copy: fetch {url} "
            f"elsewhere, bring it here and pass it as `inception_weights`, or put it at {path}."
        ) from error
    return path
