"""What tests of the programs share."""

from pathlib import Path

import pytest

from engine.classifiers import load_classifier
from engine.priors import load_prior
from engine.tokens.files import save_tokens
from engine.tokens.table import TokenTable


@pytest.fixture
def cartoon_tokens(tmp_path: Path) -> Path:
    """A token file of one class for the embedded cartoon classifier: the word "sketched" as it is."""
    prior = load_prior("embedded", device="cpu")
    ids = prior.pipe.tokenizer("sketched", add_special_tokens=False).input_ids
    row = prior.pipe.text_encoder.get_input_embeddings().weight[ids].detach().float()
    table = TokenTable(
        rows=row,
        encoders={"clip": row.shape[1]},
        classes=(0,),
        labels=("dog",),
        names=("<ddis-dog>",),
        prior=prior.fingerprint,
        classifier=load_classifier("embedded:cartoon", device="cpu").fingerprint,
    )
    save_tokens(table, tmp_path / "cartoon.safetensors")
    return tmp_path / "cartoon.safetensors"
