"""How many images an adapter learns from at once within a memory budget."""

from engine.lora.training import PHASE
from engine.memory.apply import plan_of
from engine.memory.micro_batch import MicroBatches
from engine.memory.plan import Plan
from engine.methods.drawing import Drawing
from engine.request import Execution
from engine.settings import TokenLearning
from engine.settings.lora import LoraLearning


def learning_parts(
    drawing: Drawing, learning: LoraLearning, execution: Execution, given: Plan | None
) -> MicroBatches:
    """As many images as fit when tokens are learned, whose graph has denoiser, decoder and classifier.

    That is more than guidance's lessons keep. Those of classes keep both branches of CFG, a token's one: they take half
    as many. A whole batch if sampling needs no plan. given: a plan from the caller, which also covers learning tokens.
    """
    if drawing.plan is None:
        return MicroBatches()
    if learning.objective == "class":
        branches = 1 if drawing.sampling.cfg == 1 else 2
        return MicroBatches({PHASE: max(1, drawing.plan.micro_batch["cat"] // branches)})
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
