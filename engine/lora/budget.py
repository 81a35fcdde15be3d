"""How many images an adapter learns from at once in a budget of memory."""

from engine.lora.training import PHASE
from engine.memory.apply import plan_of
from engine.memory.micro_batch import MicroBatches
from engine.memory.plan import Plan
from engine.methods.drawing import Drawing
from engine.request import Execution
from engine.settings import TokenLearning


def learning_parts(drawing: Drawing, execution: Execution, given: Plan | None) -> MicroBatches:
    """As many as learning tokens has room for, whose graph is the adapter's with decoder and classifier on top.

    All of a batch where sampling needs no plan. given: a plan that was handed over, which says it for tokens too.
    """
    if drawing.plan is None:
        return MicroBatches()
    planned = given or plan_of(
        execution.memory,
        drawing.prior,
        drawing.classifier,
        drawing.sampling.batch,
        drawing.alignment,
        drawing.sampling,
        TokenLearning(),
        execution.attention,
        graphs=False,
    )
    assert planned is not None, "a run with a plan has a budget"
    return MicroBatches({PHASE: max(1, planned.micro_batch["cat"])})
