"""What tests of plans share."""

import pytest

from engine.classifiers import Classifier
from engine.priors import Prior


@pytest.fixture
def weights(small_prior: Prior, classifier: Classifier) -> int:
    """Bytes of the weights that a run of the small prior and the test's classifier loads."""
    pipe = small_prior.pipe
    networks = (pipe.unet, small_prior.vae, pipe.text_encoder, classifier.network)
    return sum(v.nbytes for n in networks for v in (*n.parameters(), *n.buffers()))
