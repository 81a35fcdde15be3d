"""How large each network of a run is, as it is and in other precisions."""

from collections.abc import Mapping

from torch import nn

from engine.memory.subject import Subject
from engine.networks.quantised import KINDS, bytes_of

UNQUANTISED = "none"


def sizes_of(subject: Subject) -> dict[str, dict[str, int]]:
    """Bytes of each network by what its linear layers are quantised as: the classifier, VAE and tiny decoder never."""
    quantised = ("denoiser", "text encoder")
    roles = {part.name: part.role for part in subject.prior.components()}
    networks: Mapping[str, nn.Module] = subject.networks()
    return {
        name: {
            kind: bytes_of(network, kind)
            for kind in (UNQUANTISED, *(KINDS if roles.get(name) in quantised else ()))
        }
        for name, network in networks.items()
    }
