"""Small pictures of the images that a group is on the way to, for whoever watches a run."""

import base64
import io
from collections.abc import Sequence
from math import isnan
from typing import TYPE_CHECKING

import torch
from PIL import Image
from torch import Tensor

from engine.events import Events, Noted, Previewed
from engine.guidance.decoder import guidance_decoder
from engine.guidance.domain import judged
from engine.memory.micro_batch import is_out_of_memory
from engine.priors import Step
from engine.sampling.loop import OnStep
from engine.types import ImageKey

if TYPE_CHECKING:
    from engine.methods.drawing import Drawing

PREVIEW_PX = 160
"""The longest side of a preview."""
MOST_SHOWN = 32
"""Images of a group that are shown, its first."""
NO_ROOM = "no previews of this run: its memory is planned without the decoder that would make them."


def previewing(drawing: "Drawing", keys: Sequence[ImageKey], events: Events, task: str) -> OnStep:
    """What the sampler calls after each step so that the predicted clean images are shown.

    They are seen through the tiny decoder where the prior has one, as guidance sees them. No random number is drawn and
    no state of the run is touched. Where the decoder rests in main memory or memory runs out, previews end with a note.
    """
    classifier, parts = drawing.classifier, drawing.micro_batches
    shown = keys[:MOST_SHOWN]
    decoder = guidance_decoder(drawing.prior, px=classifier.preprocess.least_px)
    # A pass of guidance takes more memory than a preview; without guidance, one image takes as much as decoding one.
    at_once = len(shown)
    if drawing.alignment:
        at_once = parts.sizes.get("guidance", at_once)
    elif parts.sizes:
        at_once = 1
    is_here = next(decoder.vae.parameters()).device == drawing.prior.device

    def look(clean: Tensor) -> tuple[list[float], list[str]]:
        distances: list[float] = []
        pngs: list[str] = []
        for part in clean[: len(shown)].split(max(1, at_once)):
            images = decoder(part).clamp(0, 1)
            distances += judged(classifier, images)[1].tolist()
            pngs += [png(image) for image in images.float().cpu()]
        return distances, pngs

    def show(step: Step, clean: Tensor) -> None:
        if not parts.previews:
            return
        found = None
        if is_here:
            try:
                with torch.no_grad():
                    found = look(clean)
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
        if found is None:
            parts.previews = False
            events.emit(Noted(NO_ROOM))
            return
        distances, pngs = found
        events.emit(
            Previewed(
                task=task,
                index=step.index,
                total=step.total,
                keys=tuple(f"{key.class_index}.{key.index}" for key in shown),
                l_bn=tuple(None if isnan(one) else one for one in distances),
                pngs=tuple(pngs),
            )
        )

    return show


def png(image: Tensor) -> str:
    """image: (3, H, W) in [0, 1], on the CPU -> PNG in base64, no side longer than PREVIEW_PX. NaN is black."""
    pixels = image.nan_to_num().mul(255).round().byte().permute(1, 2, 0).contiguous()
    picture = Image.fromarray(pixels.numpy())
    picture.thumbnail((PREVIEW_PX, PREVIEW_PX))
    buffer = io.BytesIO()
    picture.save(buffer, format="PNG")
    return base64.b64encode(buffer.getvalue()).decode()
