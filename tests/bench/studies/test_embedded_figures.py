"""What the figures of the embedded models say on the prior's card."""

from collections.abc import Callable
from types import ModuleType


def rows(fid: float, close: float) -> dict[str, object]:
    return {
        "real test images through the autoencoder": {"fid": fid},
        "plain prior": {"fid": 2 * fid, "images": 14},
        "close to a training image": close,
    }


def test_a_card_tells_the_mean_the_worst_pair_and_what_is_memorised(
    bench_script: Callable[[str], ModuleType],
) -> None:
    found = bench_script("studies.embedded_figures").facts_of(
        {"photo": rows(1.0, 0.05), "sketch": rows(2.0, 0.4)},
        {"a photo of a dog": (0.5, 1.0), "a sketch of a dog": (0.75, 0.9)},
    )
    assert (
        found["class as in the prompt, by the judge"]
        == "0.62 of 28 images, 0.50 of 'a photo of a dog'"
    )
    assert (
        found["domain as in the prompt, by the judge"]
        == "0.95 of 28 images, 0.90 of 'a sketch of a dog'"
    )
    assert found["FID to other real images, plain prior"] == "photo 2.0, sketch 4.0"
    assert found["memorised"].endswith("photo 0.05, sketch 0.40")
