"""Settings are checked once, and their errors say what to do."""

import pytest

from engine.errors import ConfigError, EngineError
from engine.settings import PRIORS_PX, Alignment, Sampling, TokenLearning
from engine.settings.inversion import DeepInversion
from engine.settings.polish import Polish


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: Alignment(start=12, stop=20),
            r"start is 12 and stop is 20, expected 0 <= start < stop <= 1: .* Divide",
        ),
        (lambda: Alignment(start=0.5, stop=0.5), "start is 0.5 and stop is 0.5"),
        (lambda: Alignment(scale=-1), "scale is -1, expected a finite number >= 0"),
        (lambda: Alignment(scale=float("nan")), "scale is nan"),
        (lambda: Alignment(moves=0), "moves is 0, expected at least 1: give a positive whole"),
        (lambda: Alignment(moves=1.5), "moves is 1.5, expected a whole number: give one"),
        (lambda: Alignment(stride=True), "stride is True, expected a whole number"),
        (lambda: Alignment(decode_px=16.0), "decode_px is 16.0, expected a whole number"),
        (lambda: Polish(steps=0.5), "steps is 0.5, expected a whole number"),
        (lambda: DeepInversion(iterations=1.5), "iterations is 1.5, expected a whole number"),
        (
            lambda: Alignment(target="x0"),
            r"target is 'x0', expected one of 'clean', 'noisy'",
        ),
        (lambda: Sampling(steps=0), "steps is 0, expected at least 1"),
        (lambda: Sampling(cfg=0.5), "cfg is 0.5, expected a finite number >= 1"),
        (
            lambda: Alignment(class_weight=-1.0),
            "class_weight is -1.0, expected a finite number >= 0",
        ),
        (lambda: Sampling(eta=1.5), "eta is 1.5, expected a number from 0 to 1"),
        (
            lambda: Alignment(decoder="small"),
            "decoder is 'small', expected one of 'auto', 'full', 'tiny'",
        ),
        (lambda: Alignment(stride=0), "stride is 0, expected at least 1"),
        (lambda: Alignment(stride_from=10), "stride_from is 10, expected a fraction of the sched"),
        (
            lambda: Sampling(cfg_start=0.8, cfg_stop=0.2),
            "cfg_start is 0.8 and cfg_stop is 0.2, expected 0 <= cfg_start < cfg_stop <= 1",
        ),
        (
            lambda: Alignment(decode_px=-2),
            "decode_px is -2, expected a side in pixels, 0 or -1: 0 is what the",
        ),
        (
            lambda: TokenLearning(init="mean"),
            "init is 'mean', expected one of 'random', 'a', 'class name'",
        ),
        (
            lambda: TokenLearning(init="words", words=" ,"),
            r"words is ' ,' and tokens start from words, expected at least one",
        ),
        (lambda: TokenLearning(learning_rate=0), "learning_rate is 0"),
        (lambda: TokenLearning(target_accuracy=70), "target_accuracy is 70, .* write 70 % as 0.7"),
        (lambda: TokenLearning(epochs=0), "epochs is 0, expected at least 1"),
        (
            lambda: TokenLearning(updates_per_trajectory=0),
            "updates_per_trajectory is 0, expected at least 1",
        ),
        (lambda: TokenLearning(steps=-1), "steps is -1, expected a whole number >= 0"),
        (
            lambda: TokenLearning(gradient="last", updates_per_trajectory=4),
            "updates_per_trajectory is 4 with the gradient of the last step, expected 1",
        ),
        (
            lambda: TokenLearning(optimizer="sgd"),
            "optimizer is 'sgd', expected one of 'adam', 'adam8bit'",
        ),
        (
            lambda: TokenLearning(stop_on="loss"),
            "stop_on is 'loss', expected one of 'predicted', 'finished'",
        ),
        (
            lambda: TokenLearning(domain_weight=-0.1),
            "domain_weight is -0.1, expected a finite number >= 0",
        ),
    ],
)
def test_a_setting_that_makes_no_sense_is_refused(make, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        make()
    assert isinstance(caught.value, EngineError)
    assert isinstance(caught.value, ValueError)


def test_the_papers_settings_are_the_papers() -> None:
    paper = Alignment.paper()
    assert (paper.target, paper.step, paper.scale) == ("noisy", "raw", 0.2)
    assert (paper.start, paper.stop, paper.statistics) == (0.0, 1.0, "image")
    assert (paper.norm, paper.layers, paper.class_weight) == ("l2", "uniform", 0.0)
    assert (paper.decoder, paper.decode_px) == ("full", PRIORS_PX)
    sampling, learning = Sampling.paper(), TokenLearning.paper()
    assert (sampling.steps, sampling.cfg, sampling.eta) == (30, 15.0, 0.0)
    assert (learning.learning_rate, learning.epochs, learning.images_per_epoch) == (0.005, 30, 20)
    assert (learning.target_accuracy, learning.gradient, learning.init) == (0.7, "last", "random")
    assert (learning.steps, learning.updates_per_trajectory, learning.domain_weight) == (0, 1, 0.0)
    assert (learning.optimizer, learning.augment) == ("adam", False)
    assert (learning.skip_passing, learning.check_images) == (False, 0)
