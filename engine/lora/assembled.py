"""Assemble the lessons of an adapter from a drawing."""

from dataclasses import replace
from typing import Any

import torch

from engine.events import Events
from engine.lora.lessons import ClassLessons, GuidanceLessons, Lessons
from engine.lora.progress import Progress
from engine.memory.micro_batch import MicroBatches
from engine.methods.drawing import Drawing, settings_of
from engine.priors import Context
from engine.settings.lora import LoraLearning
from engine.types import ImageKey


def prompts_context(drawing: Drawing, learning: LoraLearning) -> Context:
    """The context of all classes' prompts, without tokens, in main memory; without CFG if guidance is learned."""
    settings: Any = settings_of(drawing.request)
    sampling = settings.sampling
    if learning.objective == "guidance":
        sampling = replace(sampling, cfg=1.0)
    alone = replace(drawing, tokens=None).asking(
        method=replace(settings, tokens=None, sampling=sampling)
    )
    context = alone.context([ImageKey(number, 0) for number in drawing.classes])
    return context.detach().to(torch.device("cpu"))


def lessons_of(
    drawing: Drawing,
    context: Context,
    learning: LoraLearning,
    parts: MicroBatches,
    progress: Progress,
    events: Events,
) -> Lessons:
    """What an adapter learns from. progress: holds the trajectories of all groups if guidance is learned."""
    drawing.micro_batches.events = events
    if learning.objective == "class":
        return ClassLessons(drawing, context, parts, events)
    place = {number: row for row, number in enumerate(drawing.classes)}
    return GuidanceLessons(
        prior=drawing.prior,
        schedule=drawing.prior.schedule(drawing.sampling.steps),
        context=context,
        groups=[[place[key.class_index] for key in group] for group in drawing.groups()],
        trajectories=progress.read,
        seed=drawing.seed,
        parts=parts,
    )
