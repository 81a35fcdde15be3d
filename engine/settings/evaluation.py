"""Settings of the evaluator."""

from dataclasses import dataclass

from engine.errors import ConfigError
from engine.settings.fields import check_at_most, check_positive, setting

MOST_RESAMPLES = 10**5


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """How images are compared with a reference. The defaults are those of the metrics' papers."""

    neighbours: int = setting(3, "k of precision and recall (Kynkaanniemi: 3)")
    density_neighbours: int = setting(5, "k of density and coverage (Naeem: 5)")
    kid_subsets: int = setting(100, "number of random subsets that KID is averaged over")
    kid_subset_size: int = setting(
        1000, "images of each set in a subset, or fewer if a set is smaller"
    )
    prd_clusters: int = setting(
        20,
        "clusters for Sajjadi's precision and recall; must be fewer than the images of either set (paper: 20)",
    )
    resamples: int = setting(
        100,
        "bootstrap resamples per interval; FID reads the features once for each; 0: no intervals",
    )
    image_batch: int = setting(64, "images per batch of the feature network")
    evaluation_seed: int = setting(0, "seed for subsets, clusters and resamples")

    def __post_init__(self) -> None:
        check_positive(
            self, "neighbours", "density_neighbours", "kid_subsets", "prd_clusters", "image_batch"
        )
        check_at_most(
            self,
            resamples=(MOST_RESAMPLES, "an interval of 1,000 changes little with more of them"),
        )
        if self.kid_subset_size < 2:
            raise ConfigError(
                f"kid_subset_size is {self.kid_subset_size}, expected at least 2: KID compares pairs of images. "
                "Raise it."
            )
        if self.resamples < 0 or self.resamples == 1:
            raise ConfigError(
                f"resamples is {self.resamples}, expected 0 or at least 2: an interval needs several values. Raise it, "
                "or give 0 to leave intervals out."
            )
